"""The inverse of the error function, as torch computes it: a quotient of polynomials, and two steps of Newton's method."""

from __future__ import annotations

from collections.abc import Sequence
from math import pi, sqrt

import torch
from torch import Tensor

_MIDDLE = (
    (0.886226899, -1.645349621, 0.914624893, -0.140543331),
    (
        1.0,
        -2.118377725,
        1.442710462,
        -0.329097515,
        0.012229801,
    ),
)
_TAIL = (-1.970840454, -1.624906493, 3.429567803, 1.641345311), (1.0, 3.543889200, 1.637067800)


def erfinv(y: Tensor) -> Tensor:
    """Infinite at -1 and 1, and NaN beyond."""
    size = y.abs()
    square = y * y
    middle = y * _quotient(_MIDDLE, square)
    far = torch.sqrt(-torch.log((1.0 - size.clamp(max=1.0 - 2.0**-24)) * 0.5))
    tail = torch.sign(y) * _quotient(_TAIL, far)
    x = torch.where(size <= 0.7, middle, tail)
    for _ in range(2):
        x = x - (torch.erf(x) - y) / (2.0 / sqrt(pi) * torch.exp(-x * x))
    x = torch.where(size == 1.0, torch.sign(y) * float("inf"), x)
    return torch.where(size > 1.0, float("nan"), x)


def _quotient(of: tuple[Sequence[float], Sequence[float]], x: Tensor) -> Tensor:
    above, below = (_polynomial(factors, x) for factors in of)
    return above / below


def _polynomial(factors: Sequence[float], x: Tensor) -> Tensor:
    """By rising powers."""
    made = x * factors[-1] + factors[-2]
    for factor in reversed(factors[:-2]):
        made = made * x + factor
    return made
