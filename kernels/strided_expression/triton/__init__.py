"""Triton kernels of the operator `strided_expression`."""
