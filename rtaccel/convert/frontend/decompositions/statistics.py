"""Order statistics that leave out what is no number, and histograms, by sorts and comparisons."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rtaccel.convert.aten import aten
from rtaccel.convert.frontend.decompositions.distances import between, rounded

_MOST = 1 << 16
"""Comparisons of elements with bins that a histogram is counted by; above it is put together by index."""


def _numbers(x: Tensor, dim: int) -> Tensor:
    """How many elements along a dimension are numbers; the dimension stays."""
    return aten.sum.dim_IntList(torch.where(torch.isnan(x), 0.0, 1.0), [dim], True)


def _nanmedian(x: Tensor, dim: int = -1, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    """The lower one of two in the middle of the numbers, which a sort puts in front; NaN where there is none."""
    values, order = aten.sort.stable(x, stable=True, dim=dim)
    at = torch.div(_numbers(x, dim).long() - 1, 2, rounding_mode="floor").clamp(min=0)
    found, place = values.gather(dim, at), order.gather(dim, at)
    return (found, place) if keepdim else (found.squeeze(dim), place.squeeze(dim))


def _of_all(call: Callable[..., Any]) -> Callable[[Tensor], Tensor]:
    return lambda x: call(x.reshape(-1), 0)[0]


def nanquantile(
    x: Tensor, q: Tensor | float, dim: Any = None, keepdim: bool = False, *, interpolation: str = "linear"
) -> Tensor:
    """Between the two numbers next to q of their count. The place is rounded as torch rounds it, in float32."""
    if isinstance(q, Tensor) or not 0 <= q <= 1:
        raise NotImplementedError
    given, dim = (x, dim) if dim is not None else (x.reshape(-1), 0)
    ordered = aten.sort.default(given, dim)[0]
    place = rounded(interpolation, (q * (_numbers(given, dim) - 1)).clamp(min=0))
    below = place.floor()
    low, high = ordered.gather(dim, below.long()), ordered.gather(dim, place.ceil().long())
    made = between(interpolation, low, high, place - below)
    return made if keepdim else made.squeeze(dim)


def _counted(place: Tensor, inside: Tensor, bins: int) -> Tensor:
    """How many elements have each place; those that are not inside have none."""
    flat, known = place.reshape(-1), inside.reshape(-1).float()
    if flat.shape[0] * bins <= _MOST:
        found = (flat[:, None] == torch.arange(bins, device=flat.device)) & (known[:, None] > 0)
        return aten.sum.dim_IntList(found.float(), [0])
    start = torch.zeros(bins, device=flat.device)
    return aten.scatter_add.default(start, 0, flat.long().clamp(0, bins - 1), known)


def _histc(x: Tensor, bins: int = 100, min: float = 0, max: float = 0) -> Tensor:
    """torch.histc of float32. Between the extremes of x where the bounds are equal."""
    if x.dtype != torch.float32 or min == max or not isinstance(x.numel(), int):
        raise NotImplementedError  # of its own extremes: equal ones are moved apart
    place = ((x - min) * bins / (max - min)).trunc()
    inside = (x >= min) & (x <= max)
    return _counted(torch.where(inside, place.clamp(max=bins - 1), 0.0), inside, bins)


def _histogram(
    x: Tensor, edges: Tensor, *, weight: Tensor | None = None, density: bool = False
) -> tuple[Tensor, Tensor]:
    """A bin has its lower edge, and the last one both."""
    if weight is not None or density or x.dtype != torch.float32 or edges.dim() != 1 or not isinstance(x.numel(), int):
        raise NotImplementedError
    bins = edges.shape[0] - 1
    place = torch.bucketize(x, edges, right=True) - 1
    inside = (x >= edges[0]) & (x <= edges[-1])
    return _counted(place.clamp(0, bins - 1).float(), inside, bins), edges.clone()


STATISTICS: dict[Any, Callable[..., Any]] = {
    aten.nanmedian.dim: _nanmedian,
    aten.nanmedian.default: _of_all(_nanmedian),
    aten.median.default: _of_all(aten.median.dim),
    aten.nanquantile.default: nanquantile,
    aten.nanquantile.scalar: nanquantile,
    aten.histc.default: _histc,
    aten.histogram.bins_tensor: _histogram,
}
"""By the call that is taken apart."""
