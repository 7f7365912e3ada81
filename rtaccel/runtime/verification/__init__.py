"""A compiled model held to the model it came from."""
