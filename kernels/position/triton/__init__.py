"""Triton kernels of the operator `position`."""
