"""`scatter_reduce` in the ways that the kernel does not know: means, and without what was there."""

from __future__ import annotations

from math import inf

import torch
from torch import Tensor

aten = torch.ops.aten
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
