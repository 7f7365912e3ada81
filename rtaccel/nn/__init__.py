"""Drop-in modules: each is a plan of its own with plain tensor buffers, and an op of `torch.ops.rtaccel` for compilers."""

from rtaccel.nn.attention import QuantMultiheadAttention
from rtaccel.nn.conv import QuantConv1d, QuantConv2d
from rtaccel.nn.embedding import QuantEmbedding
from rtaccel.nn.linear import QuantLinear
from rtaccel.nn.qat.layers import FakeQuantConv1d, FakeQuantConv2d, FakeQuantLinear
from rtaccel.nn.qat.recurrent import FakeQuantGRU, FakeQuantLSTM
from rtaccel.nn.recurrent import QuantGRU, QuantLSTM
from rtaccel.nn.sparse import SparseLinear
from rtaccel.nn.trees import TreeEnsemble

__all__ = [
    "FakeQuantConv1d",
    "FakeQuantConv2d",
    "FakeQuantGRU",
    "FakeQuantLSTM",
    "FakeQuantLinear",
    "QuantConv1d",
    "QuantConv2d",
    "QuantEmbedding",
    "QuantGRU",
    "QuantLSTM",
    "QuantLinear",
    "QuantMultiheadAttention",
    "SparseLinear",
    "TreeEnsemble",
]
