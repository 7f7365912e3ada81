"""Helpers that know no operator: activation functions, and (beside this file) the C++ and Triton ones."""
