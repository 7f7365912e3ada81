"""Triton kernels of the operator `cast`."""
