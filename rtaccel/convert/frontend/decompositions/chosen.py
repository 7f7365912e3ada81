"""Choices by chance: the largest of probabilities over exponential numbers is each of them with its probability.

Where several are chosen and none twice, they are the largest ones (Efraimidis and Spirakis, 2006), as torch draws them too.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rtaccel.convert.aten import aten


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
