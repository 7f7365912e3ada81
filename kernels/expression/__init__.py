"""Any tree of elementwise functions over rows that lie alike, in one pass."""
