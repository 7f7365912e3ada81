"""The past of persistent streams between two runs of their kernels."""
