"""Columns of several values side by side."""
