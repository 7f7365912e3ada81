"""Drop-in modules: each is a plan of its own with plain tensor buffers, and an op of `torch.ops.rtaccel` for compilers."""

from rtaccel.nn.linear import QuantLinear

__all__ = ["QuantLinear"]
