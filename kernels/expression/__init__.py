"""Any tree of elementwise functions, in one pass: over rows that lie alike, or over strided and broadcast values."""
