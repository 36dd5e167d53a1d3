"""The drivers: from a state and environments to the next state."""
