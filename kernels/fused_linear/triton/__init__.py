"""A linear layer that quantizes its own input, in Triton."""
