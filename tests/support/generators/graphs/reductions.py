"""Sums, extremes, norms, scans and what is counted or sorted."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.support.generators.graphs.program import Draw, Made

F = nn.functional

OVER_DIMS = (
    torch.sum,
    torch.mean,
    torch.amax,
    torch.amin,
    lambda x, d, keepdim: x.var(d, keepdim=keepdim),
    lambda x, d, keepdim: x.std(d, keepdim=keepdim, correction=0),
    torch.logsumexp,
    lambda x, d, keepdim: torch.linalg.vector_norm(x, 2, d, keepdim),
    lambda x, d, keepdim: torch.linalg.vector_norm(x, 1, d, keepdim),
)
OVER_ONE = (
    torch.argmax,
    torch.argmin,
    lambda x, d, keepdim: x.clamp(0.5, 1.5).prod(d, keepdim=keepdim),
    lambda x, d, keepdim: x.max(d, keepdim=keepdim).values,
    lambda x, d, keepdim: x.min(d, keepdim=keepdim).indices,
    lambda x, d, keepdim: (x > 1).any(d, keepdim=keepdim),
    lambda x, d, keepdim: (x > -1).all(d, keepdim=keepdim),
    lambda x, d, keepdim: torch.linalg.vector_norm(x, torch.inf, d, keepdim),
    lambda x, d, keepdim: (x > 0).sum(d, keepdim=keepdim),
)


def over_dims(draw: Draw, x: Tensor, other: Tensor) -> Made:
    dims = sorted(draw.sample(range(1, x.dim()), draw.randint(1, x.dim() - 1)))
    function, keep = draw.of(*OVER_DIMS), draw.of(True, False)
    return Made(lambda a, b: function(a, dims, keepdim=keep))


def over_one(draw: Draw, x: Tensor, other: Tensor) -> Made:
    dim, function, keep = draw.dim(x), draw.of(*OVER_ONE), draw.of(True, False)
    return Made(lambda a, b: function(a, dim, keepdim=keep).to(a.dtype))


def softmax(draw: Draw, x: Tensor, other: Tensor) -> Made:
    dim, function = draw.dim(x), draw.of(torch.softmax, torch.log_softmax, lambda a, d: F.softmin(a, d))
    return Made(lambda a, b: function(a, dim))


def scan(draw: Draw, x: Tensor, other: Tensor) -> Made:
    dim = draw.dim(x)
    return Made(
        draw.of(
            lambda a, b: a.cumsum(dim),
            lambda a, b: a.clamp(0.5, 1.4).cumprod(dim),
            lambda a, b: a.flip(dim).cumsum(dim).flip(dim),
            lambda a, b: a.cummax(dim).values,
        )
    )


def normalized(draw: Draw, x: Tensor, other: Tensor) -> Made:
    dim, p = draw.dim(x), draw.of(1.0, 2.0)
    return Made(lambda a, b: F.normalize(a, p, dim))


def sorts(draw: Draw, x: Tensor, other: Tensor) -> Made:
    """By numbers that are far apart: the order of near ones is of their rounding."""
    dim, down = draw.dim(x), draw.of(True, False)
    few = draw.randint(1, x.shape[dim])
    return Made(
        draw.of(
            lambda a, b: a.sort(dim, down).values,
            lambda a, b: a.topk(few, dim, down).values,
            lambda a, b: a.sort(dim).values.flip(dim),
        )
    )


def norm_layer(draw: Draw, x: Tensor, other: Tensor) -> Made:
    if x.dim() < 2 or x.shape[-1] < 3:  # of one or two numbers little is left but rounding
        raise ValueError("too few numbers")
    first = draw.dim(x)
    layers = [lambda: nn.LayerNorm(x.shape[first:]), lambda: nn.RMSNorm(x.shape[-1], 1e-5)]
    if x.dim() > 2:
        channels = x.shape[1]
        groups = draw.of(*(n for n in (1, 2, channels) if channels % n == 0))
        layers += [lambda: nn.GroupNorm(groups, channels), lambda: nn.LocalResponseNorm(3)]
        norms = {
            3: (nn.BatchNorm1d, nn.InstanceNorm1d),
            4: (nn.BatchNorm2d, nn.InstanceNorm2d),
            5: (nn.BatchNorm3d, nn.InstanceNorm3d),
        }
        for kind in norms.get(x.dim(), ()):
            layers.append(lambda kind=kind: kind(channels, affine=True))
    else:
        layers.append(lambda: nn.BatchNorm1d(x.shape[1]))
    layer = draw.of(*layers)()
    for parameter in layer.parameters():
        parameter.data = draw.tensor(*parameter.shape) * 0.5 + 1
    for name, tensor in layer.named_buffers():
        if tensor.is_floating_point():
            tensor.copy_(draw.tensor(*tensor.shape).abs() + 0.5 if name.endswith("var") else draw.tensor(*tensor.shape))
    return Made(lambda m, a, b: m(a), layer)


KINDS = (over_dims, over_dims, over_one, softmax, scan, normalized, sorts, norm_layer, norm_layer)
