"""Triton kernels of the operator `assemble`."""
