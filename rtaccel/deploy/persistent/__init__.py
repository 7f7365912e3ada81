"""Persistent kernels in the file of a model: their launches, and how their code is compiled."""
