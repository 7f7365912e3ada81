"""Choices by chance: the largest of probabilities over exponential numbers is each of them with its probability.

Where several are chosen and none twice, they are the largest ones (Efraimidis and Spirakis, 2006), as torch draws them too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rtaccel.convert.aten import aten

MOST = 2**16
"""Whole numbers from which one is drawn: a uniform number is one of 2^24, so that none of them comes half a percent too often."""


def multinomial(chances: Tensor, count: int, replacement: bool = False, *, generator: Any = None) -> Tensor:
    """int64 [..., count] of chances [..., K], which need not add up to 1."""
    if generator is not None or not chances.is_floating_point():
        raise NotImplementedError  # a generator of the user's counts on by itself
    if replacement and count > 1:
        chances = chances.unsqueeze(-2).expand(*chances.shape[:-1], count, chances.shape[-1])
    raced = chances / aten.exponential.default(torch.zeros_like(chances))
    if count > 1 and not replacement:
        return aten.topk.default(raced, count)[1]
    return aten.argmax.default(raced, -1, count == 1)


def whole_numbers(low: int, high: int, size: Sequence[Any], *, dtype: Any = torch.int64, **how: Any) -> Tensor:
    """low to high - 1. The product is never `high`, as it is rounded."""
    return _scaled(aten.rand.default(size), low, high, dtype)


def whole_numbers_like(x: Tensor, low: int, high: int, *, dtype: Any = None, **how: Any) -> Tensor:
    return _scaled(aten.rand_like.default(x, dtype=torch.float32), low, high, x.dtype if dtype is None else dtype)


def _scaled(uniform: Tensor, low: int, high: int, dtype: Any) -> Tensor:
    if not 0 < high - low <= MOST:
        raise NotImplementedError
    return (torch.floor(uniform * float(high - low)).to(torch.int64) + low).to(torch.int64 if dtype is None else dtype)
