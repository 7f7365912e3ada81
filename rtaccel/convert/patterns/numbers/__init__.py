"""Rules for numbers that are no float32: whole ones, half precision, and those that are drawn."""
