"""Triton kernels of the operator `pool`."""
