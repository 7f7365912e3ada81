"""Convolution of sequences and images; see contract.py."""
