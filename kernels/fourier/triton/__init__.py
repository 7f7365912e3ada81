"""Triton kernels of the operator `fourier`."""
