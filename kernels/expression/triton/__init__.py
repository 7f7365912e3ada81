"""Triton kernels of the operator `expression`."""
