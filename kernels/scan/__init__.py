"""Running sums, products and extremes along lines of a value."""
