"""Triton kernels of the operator `norm`."""
