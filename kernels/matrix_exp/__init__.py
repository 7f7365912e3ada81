"""Exponentials of small matrices."""
