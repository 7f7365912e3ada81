"""Operator fused_sparse_linear: quantise the rows of x, then multiply by a sparse weight; one launch on a GPU."""
