"""Quantization to whole steps and back in float32, as models trained with it have it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def _steps(x: Tensor, scale: Any, zero: Any, low: int, high: int) -> Tensor:
    """torch multiplies by the inverse of the scale, and adds the zero point before it rounds to even."""
    q = torch.round(x * (1.0 / scale) + zero).clamp(low, high)
    return (q - zero) * scale


def per_tensor(x: Tensor, scale: float, zero_point: int, low: int, high: int) -> Tensor:
    return _steps(x, scale, zero_point, low, high)


def per_tensor_of_tensors(x: Tensor, scale: Tensor, zero_point: Tensor, low: int, high: int) -> Tensor:
    return _steps(x, scale, zero_point.to(x.dtype), low, high)


def per_channel(x: Tensor, scale: Tensor, zero_point: Tensor, axis: int, low: int, high: int) -> Tensor:
    shape = [-1 if d == axis else 1 for d in range(x.dim())]
    return _steps(x, scale.reshape(shape), zero_point.to(x.dtype).reshape(shape), low, high)
