"""Operators as calls of torch's Python, which takes other overloads: patterns match those that models of Python have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils import rnn

from rtaccel.convert.aten import aten
from rtaccel.convert.frontend.torchscript.attention import ATTENTION
from rtaccel.convert.frontend.torchscript.mkldnn import IN_PLACE
from rtaccel.nn.packed_recurrent_ops import PACKED

_CONVOLUTIONS = (functional.conv1d, functional.conv2d, functional.conv3d)
_TRANSPOSED = (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d)


def _convolution(
    x: Tensor, weight: Tensor, bias: Any, stride: Any, padding: Any, dilation: Any, transposed: bool, output_padding: Any,
    groups: int, *flags: Any,
) -> Any:  # fmt: skip
    """What a trace has for every convolution."""
    at = weight.dim() - 3
    if transposed:
        return _TRANSPOSED[at](x, weight, bias, stride, padding, output_padding, groups, dilation)
    return _CONVOLUTIONS[at](x, weight, bias, stride, padding, dilation, groups)


def _select(x: Tensor, dim: int, index: Any) -> Any:
    return x[index] if dim == 0 else x.select(dim, index)


def _index(x: Tensor, indices: list[Any]) -> Any:
    return x[indices[0]] if len(indices) == 1 and indices[0] is not None else aten.index.Tensor(x, indices)


def _scaled(call: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x, other, alpha=1: call(x, other, alpha=alpha)


PYTHON_CALLS: dict[str, Callable[..., Any]] = (
    ATTENTION
    | IN_PLACE
    | {
        "aten::_convolution": _convolution,
        "aten::_convolution.deprecated": _convolution,
        "aten::select.int": _select,
        "aten::index.Tensor": _index,
        "aten::index_select": Tensor.index_select,
        "aten::cpu": Tensor.cpu,
        "aten::_pad_packed_sequence": torch._VF._pad_packed_sequence,
        **{f"aten::{kind}.data": getattr(torch._VF, kind) for kind in PACKED},
        "aten::add.Scalar": _scaled(torch.add),
        "aten::sub.Scalar": _scaled(torch.sub),
        "aten::mul.Scalar": torch.mul,
        "aten::div.Scalar": torch.div,
        "aten::div.Scalar_mode": lambda x, other, rounding_mode: torch.div(x, other, rounding_mode=rounding_mode),
        "aten::floor_divide.Scalar": torch.floor_divide,
        "aten::add_.Scalar": _scaled(Tensor.add_),
        "aten::sub_.Scalar": _scaled(Tensor.sub_),
        "aten::mul_.Scalar": Tensor.mul_,
        "aten::div_.Scalar": Tensor.div_,
    }
)
"""By name and overload."""

PYTHON_FUNCTIONS: dict[str, Callable[..., Any]] = {
    f"__torch__.torch.nn.utils.rnn.{name}": getattr(rnn, name)
    for name in ("pack_padded_sequence", "pad_packed_sequence")
}
"""Functions that are called themselves, not what they call: packed sequences are seen there."""
