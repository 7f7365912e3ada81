"""The steps of a program made ready, and what runs them."""
