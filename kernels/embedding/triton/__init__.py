"""Triton kernels of the operator `embedding`."""
