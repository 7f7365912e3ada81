"""float32 to int8 in Triton."""
