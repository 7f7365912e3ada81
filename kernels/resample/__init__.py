"""Weighted sums of rows by constant weights: interpolation along one dimension."""
