"""What a user subclasses and calls."""
