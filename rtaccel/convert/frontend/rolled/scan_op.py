"""The call that a linear recurrence becomes in a graph: y_t = a_t * y_(t-1) + b_t along a dimension, from zero. wide: with
y_(t-1) in float64."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_library = torch.library.Library("rtaccel", "FRAGMENT")
_library.define("linear_scan(Tensor a, Tensor b, int dim, bool wide=False) -> Tensor")


def _compute(a: Tensor, b: Tensor, dim: int, wide: bool = False) -> Tensor:
    a, b = torch.broadcast_tensors(a, b)
    if wide:
        return _compute(a.double(), b.double(), dim).to(b.dtype)
    made, h = [], torch.zeros_like(b.select(dim, 0))
    for t in range(b.shape[dim]):
        h = a.select(dim, t) * h + b.select(dim, t)
        made.append(h)
    return torch.stack(made, dim)


def _fake(a: Tensor, b: Tensor, dim: int, wide: bool = False) -> Tensor:
    return torch.empty_like(a + b)


_library.impl("linear_scan", _compute, "CompositeExplicitAutograd")
torch.library.register_fake("rtaccel::linear_scan", _fake, lib=_library)
LINEAR_SCAN: Any = torch.ops.rtaccel.linear_scan.default
