"""What is shown, written and saved of one call of `train`."""
