"""Triton kernels of the operator `linear_scan`."""
