"""Triton kernels of the operator `take`."""
