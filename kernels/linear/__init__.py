"""Linear layer with bias and activation: float32, and int8 weights with int8 activations."""
