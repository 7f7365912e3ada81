"""Each operator alone, at the size of a feature map, beside eager PyTorch: which of ours takes longer."""
