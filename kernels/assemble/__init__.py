"""Copies by strides: parts of several values put together in any order, with padding."""
