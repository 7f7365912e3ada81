"""Drop-in modules: each is a plan of its own with plain tensor buffers, and an op of `torch.ops.rtaccel` for compilers."""

from rtaccel.nn.linear import QuantLinear
from rtaccel.nn.recurrent import QuantGRU, QuantLSTM

__all__ = ["QuantGRU", "QuantLSTM", "QuantLinear"]
