"""A model over two machines: whether the best cut is chosen, and what transports add."""
