"""The vocabulary every other room speaks: schemes, stages, problems, implementations, errors.

Imports nothing of rtaccel's own, and torch only where a value is a tensor.
"""
