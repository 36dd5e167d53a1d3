"""Pure functions and the types of a state: no input, no output, nothing kept."""
