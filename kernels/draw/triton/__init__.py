"""Triton kernels of the operator `draw`."""
