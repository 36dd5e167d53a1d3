"""What makes programs fast; each with a switch and a plain path that gives the same."""
