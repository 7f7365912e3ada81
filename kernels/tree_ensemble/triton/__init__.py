"""Triton kernels of the operator `tree_ensemble`."""
