"""Helpers that know no operator: activations, window geometry, int4 packing and dot products, windows over rows."""
