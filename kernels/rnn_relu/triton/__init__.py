"""Triton kernels of the operator `rnn_relu`."""
