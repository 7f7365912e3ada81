"""Triton kernels of the operator `order`."""
