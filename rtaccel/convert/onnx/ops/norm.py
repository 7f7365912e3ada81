"""Normalizations."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rtaccel.convert.onnx.table import op
from rtaccel.core.errors import UnsupportedProblem


@op("BatchNormalization")
def batch_norm(
    x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor, *, outputs: int, epsilon: float = 1e-5,
    momentum: float = 0.9, spatial: int = 1, training_mode: int = 0,
) -> Tensor:  # fmt: skip
    if training_mode or outputs > 1:
        raise UnsupportedProblem(
            "BatchNormalization", "training mode", "running statistics", "Export the model in eval mode."
        )
    return F.batch_norm(x, mean, var, scale, bias, False, 0.0, epsilon)


@op("InstanceNormalization")
def instance_norm(x: Tensor, scale: Tensor, bias: Tensor, *, epsilon: float = 1e-5) -> Tensor:
    return F.instance_norm(x, None, None, scale, bias, True, 0.0, epsilon)


@op("LayerNormalization")
def layer_norm(
    x: Tensor, scale: Tensor, bias: Tensor | None = None, *, outputs: int, axis: int = -1, epsilon: float = 1e-5,
    stash_type: int = 1,
) -> Any:  # fmt: skip
    axis = axis % x.dim()
    sizes = list(x.shape[axis:])
    if list(scale.shape) == sizes and (bias is None or list(bias.shape) == sizes):
        y = F.layer_norm(x, sizes, scale, bias, epsilon)
    else:
        y = F.layer_norm(x, sizes, None, None, epsilon) * scale
        y = y if bias is None else y + bias
    if outputs == 1:
        return y
    over = tuple(range(axis, x.dim()))
    mean = x.mean(over, keepdim=True)
    return y, mean, torch.rsqrt((x - mean).square().mean(over, keepdim=True) + epsilon)


@op("SkipLayerNormalization", domain="com.microsoft")
def skip_layer_norm(
    x: Tensor, skip: Tensor, scale: Tensor, bias: Tensor | None = None, more: Tensor | None = None, *, outputs: int,
    epsilon: float = 1e-12,
) -> Any:  # fmt: skip
    total = x + skip if more is None else x + skip + more
    y = F.layer_norm(total, [x.shape[-1]], scale, bias, epsilon)
    return y if outputs == 1 else (y, None, None, total)[:outputs]


@op("RMSNormalization")
@op("SimplifiedLayerNormalization")
def rms_norm(x: Tensor, scale: Tensor, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1) -> Tensor:
    sizes = list(x.shape[axis % x.dim() :])
    if list(scale.shape) == sizes:
        return F.rms_norm(x, sizes, scale, epsilon)
    return F.rms_norm(x, sizes, None, epsilon) * scale


@op("GroupNormalization", since=18)
def group_norm_18(
    x: Tensor, scale: Tensor, bias: Tensor, *, num_groups: int, epsilon: float = 1e-5, stash_type: int = 1
) -> Tensor:
    """Opsets 18 to 20 have a scale per group."""
    each = x.shape[1] // num_groups
    return F.group_norm(x, num_groups, scale.repeat_interleave(each), bias.repeat_interleave(each), epsilon)


@op("GroupNormalization", since=21)
def group_norm(
    x: Tensor, scale: Tensor, bias: Tensor, *, num_groups: int, epsilon: float = 1e-5, stash_type: int = 1
) -> Tensor:
    return F.group_norm(x, num_groups, scale, bias, epsilon)


@op("LpNormalization")
def lp_norm(x: Tensor, *, axis: int = -1, p: int = 2) -> Tensor:
    size = x.abs().sum(axis, keepdim=True) if p == 1 else (x * x).sum(axis, keepdim=True).sqrt()
    return torch.where(size == 0, torch.zeros_like(x), x / size)


@op("MeanVarianceNormalization")
def mean_variance_norm(x: Tensor, *, axes: Any = (0, 2, 3)) -> Tensor:
    mean = x.mean(tuple(axes), keepdim=True)
    return (x - mean) / ((x * x).mean(tuple(axes), keepdim=True) - mean * mean).sqrt().add(1e-9)


@op("LRN")
def lrn(x: Tensor, *, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0) -> Tensor:
    """x / (bias + alpha / size * sum of squares of the channels around)^beta."""
    before, after = (size - 1) // 2, size - 1 - (size - 1) // 2
    squares = F.pad((x * x).movedim(1, -1), (before, after))
    sums = squares.unfold(-1, size, 1).sum(-1).movedim(-1, 1)
    return x / (bias + alpha / size * sums).pow(beta)
