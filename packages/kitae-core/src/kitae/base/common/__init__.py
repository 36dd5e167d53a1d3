"""What has nothing to do with learning: pytrees, memory, signals."""
