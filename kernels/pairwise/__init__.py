"""Joined differences of all pairs of rows: distances of points, of centers, of codes."""
