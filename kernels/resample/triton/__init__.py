"""Triton kernels of the operator `resample`."""
