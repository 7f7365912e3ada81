"""Average and maximum over windows of a sequence or an image; see contract.py."""
