"""Compiled models on a CUDA device: graph replay, and persistent kernels with their mailbox, launch and networks.

`persistent` is what the rest of the runtime sees; the files named after it are its parts.
"""
