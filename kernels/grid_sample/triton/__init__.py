"""Triton kernels of the operator `grid_sample`."""
