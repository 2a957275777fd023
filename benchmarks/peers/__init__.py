"""Other stream processors that count the same input, as their users would write it."""
