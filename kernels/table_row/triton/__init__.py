"""Triton kernels of the operator `table_row`."""
