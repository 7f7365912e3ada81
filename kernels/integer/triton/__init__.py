"""Triton kernels of the operator `integer`."""
