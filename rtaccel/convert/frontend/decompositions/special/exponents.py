"""Fractions and exponents of numbers, and their neighbors: by powers of two, which lose no bit."""

from __future__ import annotations

from math import inf

import torch
from torch import Tensor

_BITS = 24
_LEAST = -149
"""The exponent of the smallest number of float32."""


def frexp(x: Tensor) -> tuple[Tensor, Tensor]:
    """(fraction of a size from 1/2 to 1, int32 exponent); 0 and what is not finite as they are, with 0."""
    if x.dtype != torch.float32:
        raise NotImplementedError
    size = x.abs()
    plain = (size > 0) & (size < inf)
    small = size < 2.0**-100
    given = torch.where(plain, torch.where(small, size * 2.0**64, size), 1.0)
    power = torch.floor(torch.log2(given)) + 1.0  # or next to it: a logarithm is rounded
    half = torch.floor(power * 0.5)
    fraction = given * torch.exp2(-half) * torch.exp2(half - power)
    above, below = fraction >= 1.0, fraction < 0.5
    fraction = torch.where(above, fraction * 0.5, torch.where(below, fraction * 2.0, fraction))
    power = power + above.float() - below.float() - torch.where(small, 64.0, 0.0)
    return torch.where(plain, torch.where(x < 0, -fraction, fraction), x), torch.where(plain, power, 0.0).int()


def nextafter(x: Tensor, to: Tensor) -> Tensor:
    """The next number of float32 from x on the way to another."""
    if x.dtype != torch.float32 or to.dtype != torch.float32:
        raise NotImplementedError
    size = x.abs()
    fraction, power = frexp(x)
    step = torch.exp2((power - _BITS).clamp(min=_LEAST).float())
    inward = torch.where(fraction.abs() == 0.5, torch.exp2((power - _BITS - 1).clamp(min=_LEAST).float()), step)
    outward = (to > x) == (x > 0)
    moved = torch.where(outward, size + step, size - inward)
    moved = torch.where(size == inf, torch.finfo(torch.float32).max, moved)
    found = torch.where(x < 0, -moved, moved)
    found = torch.where(x == 0, torch.where(to > 0, 2.0**_LEAST, -(2.0**_LEAST)), found)
    return torch.where(x == to, to, torch.where(torch.isnan(x) | torch.isnan(to), x + to, found))
