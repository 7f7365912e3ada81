"""The second derivative of the logarithm of the gamma function."""

from __future__ import annotations

from math import inf, pi

import torch
from torch import Tensor

from rtaccel.convert.aten import aten

_STEPS = 6


def trigamma(x: Tensor) -> Tensor:
    """By steps of 1 until the asymptotic series is exact; by reflection below 1/2. Infinite at 0, -1, ..."""
    low = x < 0.5
    start = torch.where(low, 1.0 - x, x)
    total = 1.0 / (start * start)
    for k in range(1, _STEPS):
        total = total + 1.0 / ((start + float(k)) * (start + float(k)))
    y = start + float(_STEPS)
    square = 1.0 / (y * y)
    total = total + (1.0 + 0.5 / y + square * (1 / 6 - square * (1 / 30 - square * (1 / 42 - square / 30)))) / y
    sine = torch.sin(pi * (x - torch.round(x)))  # has few digits far from 0
    reflected = torch.where(sine == 0, inf, (pi / sine) * (pi / sine) - total)
    return torch.where(low, reflected, total)


def polygamma(n: int, x: Tensor) -> Tensor:
    """Of orders 0 and 1."""
    if n == 0:
        return aten.digamma.default(x)
    if n != 1:
        raise NotImplementedError
    return trigamma(x)
