"""float32 activations to int8, with static or per-row scales."""
