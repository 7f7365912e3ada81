"""State that a model keeps in buffers and attributes: where it lies, and the model as a function of it."""
