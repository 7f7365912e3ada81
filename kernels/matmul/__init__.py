"""Matrix products of two computed values."""
