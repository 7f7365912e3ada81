"""Distances of all pairs, quantiles, and values put where truth values say, as calls that operators compute."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, floor, inf
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rtaccel.convert.aten import aten


def cdist(a: Tensor, b: Tensor, p: float = 2.0, compute_mode: Any = None) -> Tensor:
    """a [..., N, D], b [..., M, D] -> [..., N, M]. From differences: torch takes a product of matrices where there are more
    than 25 rows, which loses digits for pairs that are close."""
    off = (a.unsqueeze(-2) - b.unsqueeze(-3)).abs()
    if p == 2:
        return aten.sum.dim_IntList(off * off, [-1]).sqrt()
    if p == 1:
        return aten.sum.dim_IntList(off, [-1])
    if p == inf:
        return aten.amax.default(off, [-1])
    if p == 0:
        return aten.sum.dim_IntList(off.ceil().clamp_max(1.0), [-1])  # 0 or 1, and NaN where one is
    return aten.sum.dim_IntList(off.pow(p), [-1]).pow(1.0 / p)


def rounded(interpolation: str, place: Any) -> Any:
    """Where the one number is that is taken: between two, where none of them is to be taken alone."""
    tensor = isinstance(place, Tensor)
    if interpolation == "lower":
        return place.floor() if tensor else floor(place)
    if interpolation == "higher":
        return place.ceil() if tensor else ceil(place)
    if interpolation == "nearest":
        return place.round() if tensor else round(place)
    return place


def between(interpolation: str, low: Tensor, high: Tensor, weight: Any) -> Tensor:
    """The two neighbors of a place, joined. Only where that is asked for: infinite neighbors have no difference."""
    if interpolation in ("lower", "higher", "nearest"):
        return low
    return torch.lerp(low, high, weight * 0.0 + 0.5 if interpolation == "midpoint" else weight)


def quantile(
    x: Tensor, q: Tensor | float, dim: Any = None, keepdim: bool = False, *, interpolation: str = "linear"
) -> Tensor:
    """Between the two neighbors in order; NaN where one is. A tensor q gives a dimension of its own, in front."""
    given, dim = (x, dim) if dim is not None else (x.reshape(-1), 0)
    dim %= given.dim()
    last = int(given.shape[dim]) - 1
    ordered = aten.sort.default(given, dim)[0]
    nan = aten.any.dim(torch.isnan(given), dim, True)
    if isinstance(q, Tensor):
        place = rounded(interpolation, q.reshape(-1) * last)
        below = place.floor()
        low = ordered.index_select(dim, below.long())
        high = ordered.index_select(dim, place.ceil().long())
        weight: Any = (place - below).reshape([-1, *[1] * (given.dim() - 1 - dim)])
    else:
        if not 0 <= q <= 1:
            raise NotImplementedError
        at = rounded(interpolation, float(np.float32(q) * np.float32(last)))  # as torch rounds it
        low, high = ordered.narrow(dim, floor(at), 1), ordered.narrow(dim, ceil(at), 1)
        weight = at - floor(at)
    made = torch.where(nan, float("nan"), between(interpolation, low, high, weight))
    if isinstance(q, Tensor) and q.dim():
        made = made.movedim(dim, 0)
        return made.unsqueeze(dim + 1) if keepdim else made
    return made if keepdim else made.squeeze(dim)


def index_put(
    x: Tensor, indices: Sequence[Tensor | None], values: Tensor, accumulate: bool = False, unsafe: bool = False
) -> Tensor:
    """Where the only index is a tensor of truth values and no value depends on how many are true."""
    truths = [i for i in indices if i is not None]
    if len(truths) != 1 or truths[0].dtype != torch.bool:
        raise NotImplementedError
    mask, first = truths[0], next(d for d, i in enumerate(indices) if i is not None)
    behind = x.dim() - first - mask.dim()
    if values.dim() > behind and (first or values.numel() != 1):
        raise NotImplementedError  # a value for each true one
    values = values.reshape([]) if values.numel() == 1 else values
    mask = mask.reshape([*mask.shape, *[1] * behind])
    return torch.where(mask, x + values if accumulate else values.to(x.dtype), x)
