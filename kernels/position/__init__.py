"""Position: a constant added to each step of a sample."""
