"""Dead letters: looking at them, and sending them again, each at most once."""
