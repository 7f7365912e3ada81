"""Triton kernels of the operator `pointwise`."""
