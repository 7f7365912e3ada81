"""Copying a value into another order, or parts of it: whole rows, or single elements."""
