"""Any tree of elementwise functions over strided and broadcast values, in one pass."""
