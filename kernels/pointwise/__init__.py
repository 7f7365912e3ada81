"""Elementwise work on whole rows: activation, scale and shift per column, residual add."""
