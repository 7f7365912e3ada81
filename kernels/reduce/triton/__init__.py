"""Triton kernels of the operator `reduce`."""
