"""What `torch.jit.optimize_for_inference` makes of layers for oneDNN, as the operators that they were."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


def _convolution(x: Tensor, weight: Tensor, bias: Any, stride: Any, padding: Any, dilation: Any, groups: int) -> Tensor:
    call = (functional.conv1d, functional.conv2d, functional.conv3d)[weight.dim() - 3]
    return call(x, weight, bias, stride, padding, dilation, groups)


def _layer_norm(x: Tensor, shape: Any, weight: Any, bias: Any, eps: float, cudnn_enable: bool) -> Tensor:
    return functional.layer_norm(x, shape, weight, bias, eps)


def clamp_of(node: Any) -> Callable[..., Any]:
    """`relu6` and `hardtanh`, whose bounds are attributes of the node."""
    return partial(torch.clamp, min=node.f("min_val"), max=node.f("max_val"))


def _grown(inside: Callable[..., Any], apart: Callable[..., Any]) -> Callable[..., Any]:
    """A call in place, but not of a tensor that grows by it: oneDNN's graphs make it larger first, and here nothing does. PyTorch
    itself would raise."""
    return lambda x, other, *more: (inside if _fits(x, other) else apart)(
        x, other, **({"alpha": more[0]} if more else {})
    )


def _fits(x: Tensor, other: Tensor) -> bool:
    if other.dim() > x.dim():
        return False
    return all((type(b) is int and b == 1) or a == b for a, b in zip(reversed(x.shape), reversed(other.shape)))


def _same(x: Tensor, *dtype: Any) -> Tensor:
    return x


DENSE: dict[str, Callable[..., Any]] = {
    "aten::to_mkldnn": _same,
    "aten::to_dense": lambda x, *dtype: x if x.layout is torch.strided else x.to_dense(),
    "prim::BroadcastMKLDNNTensors": lambda *tensors: tensors,  # what reads them broadcasts too
    "prim::mkldnn_convolution": _convolution,
    "prim::MKLDNNHardSwish": functional.hardswish,
    "prim::MKLDNNHardSwish_": functional.hardswish,
    "prim::MKLDNNHardSigmoid": functional.hardsigmoid,
    "prim::MKLDNNHardSigmoid_": functional.hardsigmoid,
    "prim::MKLDNNLayerNorm": _layer_norm,
    "prim::MKLDNNLayerNorm_": _layer_norm,
    "prim::MKLDNNScalarMul": torch.mul,
    "prim::MKLDNNScalarMul_": torch.mul,
}
"""By kind of node. Tensors stay as they are where the graph has them in oneDNN's layout."""

IN_PLACE: dict[str, Callable[..., Any]] = {
    "aten::add_.Tensor": _grown(Tensor.add_, torch.add),
    "aten::mul_.Tensor": _grown(Tensor.mul_, torch.mul),
}
"""By name and overload."""
