"""Triton kernels of the operator `softmax`."""
