"""Sparse linear layers in Triton: blocks, 2:4 and single weights."""
