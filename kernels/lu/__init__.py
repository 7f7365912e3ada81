"""Triangular factors of small matrices, by elimination."""
