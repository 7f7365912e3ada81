"""Softmax over the columns of each row."""
