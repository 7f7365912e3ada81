"""Operator fused_sparse_linear: quantize the rows of x, then multiply by a sparse weight; one launch on a GPU."""
