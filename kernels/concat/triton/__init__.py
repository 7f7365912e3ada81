"""Triton kernels of the operator `concat`."""
