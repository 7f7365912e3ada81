"""Eigenvalues of small symmetric matrices."""
