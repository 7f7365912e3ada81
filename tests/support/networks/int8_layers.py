"""Int8 layers for tests: made from random numbers, and compared by their bits."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import rtaccel as rt
from rtaccel.kernels.linear import contract as linear
from rtaccel.kernels.quantize import contract as quantize
from rtaccel.nn import QuantLinear
from rtaccel.nn.params.linear_w8a8 import LinearW8A8

KINDS = ["static", "dynamic"]


def make(kind: str = "static", k: int = 24, n: int = 7, bias: bool = True, seed: int = 0) -> QuantLinear:
    torch.manual_seed(seed)
    calibration = torch.randn(64, k) * 2 + 0.3 if kind == "static" else None
    return QuantLinear.from_float(nn.Linear(k, n, bias=bias), rt.W8A8(), calibration)


def reference(layer: QuantLinear, x: Tensor) -> Tensor:
    """The two contracts in plain torch, on the buffers of the layer."""
    numbers = LinearW8A8(layer.qweight, layer.weight_scale, layer.bias, layer.input_scale, layer.input_zero_point)
    first, second = numbers.group(1).stages
    rows = x.reshape(-1, x.shape[-1])
    (y,) = linear.reference(second, *quantize.reference(first, rows))
    y = torch.where(torch.isfinite(rows).all(-1, keepdim=True), y, torch.full_like(y, float("nan")))
    return y.reshape(*x.shape[:-1], y.shape[-1])


def same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and bool(((a == b) | (a.isnan() & b.isnan())).all())
