"""Operators of ONNX on torch tensors, a file for each family; `table.py` says how they are registered."""
