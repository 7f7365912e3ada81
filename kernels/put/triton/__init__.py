"""Triton kernels of the operator `put`."""
