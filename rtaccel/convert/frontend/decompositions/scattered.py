"""`scatter_reduce` in ways that the kernel does not know: means, and without what was there; max_unpool;
written diagonals and places."""

from __future__ import annotations

from math import inf

import torch
from torch import Tensor

from rtaccel.convert.aten import aten

_NEUTRAL = {"sum": 0.0, "mean": 0.0, "prod": 1.0, "amax": -inf, "amin": inf}


def scatter_reduce(
    x: Tensor, dim: int, index: Tensor, src: Tensor, reduce: str, *, include_self: bool = True
) -> Tensor:
    """Where the index points and x does not count, x is replaced by what changes no result. Places that the index leaves out
    keep x."""
    if not x.is_floating_point() or (reduce != "mean" and include_self):
        raise NotImplementedError
    ones = torch.ones_like(src)
    counts = aten.scatter_add.default(torch.zeros_like(x), dim, index, ones)
    base = x if include_self else torch.where(counts > 0, _NEUTRAL[reduce], x)
    if reduce != "mean":
        return aten.scatter_reduce.two(base, dim, index, src, reduce, include_self=True)
    total = aten.scatter_add.default(base, dim, index, src)
    return total / (counts + 1.0 if include_self else counts.clamp_min(1.0))


def diagonal_scatter(x: Tensor, source: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor:
    """A choice by place between a tensor and the numbers of its diagonal, each in its row."""
    first, second = dim1 % x.dim(), dim2 % x.dim()
    rows, columns = x.shape[first], x.shape[second]
    if source.shape[-1] == 0:
        return x.clone()
    row, column = torch.arange(rows)[:, None], torch.arange(columns)[None, :]
    place = torch.arange(rows) + min(offset, 0)
    own = source.index_select(-1, place.clamp(0, source.shape[-1] - 1))  # a number for each row
    others = [d for d in range(x.dim()) if d not in (first, second)]
    chosen = torch.where(column - row == offset, own[..., None], x.permute(*others, first, second))
    order = [*others, first, second]
    return chosen.permute([order.index(d) for d in range(x.dim())])


def diag_embed(x: Tensor, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Tensor:
    """A choice by place between the numbers, each in its row, and zeros."""
    size, rank = x.shape[-1] + abs(offset), x.dim() + 1
    by_row = torch.nn.functional.pad(x, (max(-offset, 0), max(offset, 0))) if offset else x
    place = torch.arange(size)
    found = torch.where(place[None, :] - place[:, None] == offset, by_row[..., None], 0.0)
    order = list(range(rank - 2))
    for d, source in sorted(((dim1 % rank, rank - 2), (dim2 % rank, rank - 1))):
        order.insert(d, source)
    return found.permute(order)


def max_unpool2d(x: Tensor, indices: Tensor, output_size: list[int]) -> Tensor:
    """Each number at the place that its index names, zeros elsewhere."""
    if x.dim() != 4:
        raise NotImplementedError
    height, width = output_size
    flat = x.flatten(2)
    zero = (flat[..., :1] != flat[..., :1]).to(x.dtype) * 0  # of as many samples as there are
    base = zero.expand(-1, -1, height * width)
    return aten.scatter.src(base, 2, indices.flatten(2), flat).unflatten(2, (height, width))


def select_scatter(x: Tensor, src: Tensor, dim: int, index: int) -> Tensor:
    """Not where the dimension is open: to count it out would close it, in the whole graph."""
    size = x.shape[dim]
    if not isinstance(size, int):
        raise NotImplementedError
    shape = [size if d == dim % x.dim() else 1 for d in range(x.dim())]
    return torch.where(torch.arange(size).view(shape) == index % size, src.unsqueeze(dim), x)
