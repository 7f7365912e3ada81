"""Triton kernels of the operator `attention`."""
