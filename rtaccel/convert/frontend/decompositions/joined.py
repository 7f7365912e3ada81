"""Decompositions of calls that put tensors together or pad them."""

from __future__ import annotations

from functools import reduce
from typing import Any

import torch
from torch import Tensor

from rtaccel.convert.aten import aten


def stack(tensors: list[Tensor], dim: int = 0) -> Tensor:
    """torch's own way joins them in another dimension first, which may be that of the samples."""
    dim %= tensors[0].dim() + 1
    return aten.cat.default([t.unsqueeze(dim) for t in tensors], dim)


def joined(tensors: list[Tensor], dim: int = 0) -> Tensor:
    """Lists grow with a loop, so some have one tensor, the result. Of several dtypes, all are cast to that of the result."""
    if len(tensors) == 1:
        return aten.alias.default(tensors[0])
    made = reduce(torch.promote_types, (t.dtype for t in tensors))
    if all(t.dtype == made for t in tensors):
        raise NotImplementedError
    return aten.cat.default([t if t.dtype == made else t.to(made) for t in tensors], dim)


def shifted_out(x: Tensor, pad: list[int], mode: Any = "constant", value: float | None = None) -> Tensor:
    """Negative padding that cuts everything off: what is left is padding."""
    value = mode if not isinstance(mode, str) else value  # constant_pad_nd has no mode
    if mode in ("reflect", "replicate", "circular"):
        raise NotImplementedError
    around = [(0, 0)] * (x.dim() - len(pad) // 2) + list(zip(pad[::2], pad[1::2]))[::-1]
    cut = [min(before, 0) + min(after, 0) for before, after in around]
    if not any(c and size + c <= 0 for c, size in zip(cut, x.shape)):
        raise NotImplementedError
    shape = [size if before == after == 0 else size + before + after for size, (before, after) in zip(x.shape, around)]
    return aten.new_full.default(x, shape, value or 0)
