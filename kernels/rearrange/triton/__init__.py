"""Triton kernels of the operator `rearrange`."""
