"""Linear layers whose weight is mostly zeros: unstructured, in blocks, or two of every four."""
