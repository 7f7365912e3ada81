"""Multi-head attention: scaled dot product of packed heads, masks and softmax fused."""
