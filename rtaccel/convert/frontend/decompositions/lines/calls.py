"""Which call along a dimension is taken apart by which function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rtaccel.convert.aten import aten
from rtaccel.convert.frontend.decompositions.distances import cdist
from rtaccel.convert.frontend.decompositions.lines.extremes import mode, running

_REDUCE = {"prod": "prod", "mean": "mean", "amax": "amax", "amin": "amin"}


def _index_reduce(
    x: Tensor, dim: int, index: Tensor, source: Tensor, reduce: str, *, include_self: bool = True
) -> Tensor:
    """As `scatter_reduce` with the index of a row for each of its elements."""
    if not x.dim() or reduce not in _REDUCE:
        raise NotImplementedError
    dim %= x.dim()
    shape = [1] * x.dim()
    shape[dim] = -1
    each = index.long().reshape(shape).expand(source.shape)
    return aten.scatter_reduce.two(x, dim, each, source, _REDUCE[reduce], include_self=include_self)


def _pdist(x: Tensor, p: float = 2.0) -> Tensor:
    """Distances of the pairs i < j of rows, in the order of i and then j."""
    count = x.shape[0]
    if not isinstance(count, int):
        raise NotImplementedError
    first, second = torch.triu_indices(count, count, 1)
    return cdist(x, x, p).reshape(-1).index_select(0, first * count + second)


CALLS: dict[Any, Callable[..., Any]] = {
    aten.cummax.default: running(True),
    aten.cummin.default: running(False),
    aten.mode.default: mode,
    aten.msort.default: lambda x: aten.sort.default(x, 0)[0],
    aten.index_reduce.default: _index_reduce,
    aten.pdist.default: _pdist,
    aten._pdist_forward.default: _pdist,
}
"""By the call that is taken apart."""
