"""Orthogonal and triangular factors of small matrices."""
