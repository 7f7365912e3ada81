"""The call that running extremes become in a graph: their values alone, which an operator computes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_library = torch.library.Library("rtaccel", "FRAGMENT")
_library.define("running_extreme(Tensor self, int dim, bool largest) -> Tensor")


def _compute(x: Tensor, dim: int, largest: bool) -> Tensor:
    return (x.cummax(dim) if largest else x.cummin(dim)).values


def _fake(x: Tensor, dim: int, largest: bool) -> Tensor:
    return torch.empty_like(x)


_library.impl("running_extreme", _compute, "CompositeExplicitAutograd")
torch.library.register_fake("rtaccel::running_extreme", _fake, lib=_library)
RUNNING_EXTREME: Any = torch.ops.rtaccel.running_extreme.default
