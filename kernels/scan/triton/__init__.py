"""Triton kernels of the operator `scan`."""
