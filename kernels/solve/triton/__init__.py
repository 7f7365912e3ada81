"""Triton kernels of the operator `solve`."""
