"""Elements of a value by computed indices."""
