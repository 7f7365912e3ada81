"""Triton kernels of the operator `matmul`."""
