"""Sums, means, extremes and products over any dimensions of a value."""
