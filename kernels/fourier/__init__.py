"""Discrete Fourier transforms of the lines of a value, as one stage."""
