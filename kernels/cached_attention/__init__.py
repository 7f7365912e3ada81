"""Attention of one query to the keys and values that a stream keeps."""
