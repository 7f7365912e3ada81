"""Drop-in modules: each is a one-stage plan with plain tensor buffers, and an op of `torch.ops.rtaccel` for the compilers."""

from rtaccel.nn.linear import QuantLinear

__all__ = ["QuantLinear"]
