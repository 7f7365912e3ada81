"""Triton kernels of the operator `cached_attention`."""
