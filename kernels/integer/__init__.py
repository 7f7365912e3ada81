"""Elementwise arithmetic with whole numbers, exactly, in int64."""
