"""One file for each runtime of the comparison: it converts a network, loads it, and gives a call to time."""
