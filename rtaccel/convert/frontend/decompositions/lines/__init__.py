"""Calls along a dimension, as sorts, running extremes and computed indices."""
