"""The error function times exp(x^2), the normal distribution and its logarithm, and the inverses."""

from __future__ import annotations

from math import exp, sqrt

import torch
from torch import Tensor

from rtaccel.convert.frontend.decompositions.special.polynomials import exp_of_square, polynomial

_SCALED = (
    0.510791357, 0.343580305, 0.139735715, 0.0182218981, -0.0107513442, -0.00324440321, 0.00152801709, 0.00043209043,
    -0.000297715115, -3.72925888e-05, 4.13620802e-05,
)  # fmt: skip
"""erfcx(x) / t for t = 2 / (2 + x), in 2 t - 1."""

_MIDDLE = (
    2.71245574, 0.244389352, 0.0477359077, 0.0116191431, 0.00314393841, 0.000904580139, 0.000262554908, 7.96345679e-05,
    3.43388689e-05, 1.15046015e-05,
)  # fmt: skip
"""ndtri(y + 1/2) / y, in y^2 from 0 to the square of 1/2 - exp(-2)."""

_TAIL = (
    0.815509719, -0.225059556, -0.0463267323, 0.00822643326, -0.0020610729, 0.000644770073, -0.000278817878, 0.000138695399,
    -4.24945797e-06, -1.36513031e-05, -4.78588166e-05, 3.21423306e-05,
)  # fmt: skip
"""-ndtri(p) / z for z = sqrt(-2 log p), in 2 / z from 2 / 14.5 to 1."""

_EDGE = exp(-2)
_HALF_MIDDLE = (0.5 - _EDGE) ** 2 / 2


def _scaled(size: Tensor) -> Tensor:
    """erfcx of numbers of at least 0."""
    t = 2.0 / (2.0 + size)
    return t * polynomial(_SCALED, t * 2.0 - 1.0)


def erfcx(x: Tensor) -> Tensor:
    """exp(x^2) * (1 - erf(x)); infinite below -9.4."""
    above = _scaled(x.abs())
    return torch.where(x < 0, 2.0 * exp_of_square(x.clamp(min=-10.0, max=0.0), 1.0) - above, above)


def ndtr(x: Tensor) -> Tensor:
    """The share of the normal distribution below x: 1 + erf has no digits left below -5."""
    tail = _scaled(x.abs() * sqrt(0.5)) * 0.5 * exp_of_square(x.clamp(min=-15.0, max=15.0), -0.5)
    return torch.where(x < 0, tail, 1.0 - tail)


def log_ndtr(x: Tensor) -> Tensor:
    """log of the share of the normal distribution below x."""
    half = _scaled(x.abs() * sqrt(0.5)) * 0.5
    below = torch.log(half) - x * x * 0.5
    above = torch.log1p(-half * exp_of_square(x.clamp(min=0.0, max=15.0), -0.5))
    return torch.where(x < 0, below, above)


def ndtri(p: Tensor) -> Tensor:
    """The number below which the share p of the normal distribution is. Infinite at 0 and 1, and NaN beyond."""
    y = p - 0.5
    far = _far(torch.where(y > 0, 1.0 - p, p))
    return torch.where(y.abs() < 0.5 - _EDGE, _near(y), torch.where(y > 0, far, -far))


def erfinv(y: Tensor) -> Tensor:
    """Infinite at -1 and 1, and NaN beyond. 1 - y is exact near 1, where erf has too few digits for a step of Newton's."""
    share = (1.0 - y.abs()) * 0.5
    far = _far(share)
    return torch.where(share > _EDGE, _near(y * 0.5), torch.where(y > 0, far, -far)) * sqrt(0.5)


def _near(y: Tensor) -> Tensor:
    """ndtri of what is y above one half, for not much."""
    return y * polynomial(_MIDDLE, (y * y - _HALF_MIDDLE) / _HALF_MIDDLE)


def _far(share: Tensor) -> Tensor:
    """-ndtri of a small share: infinite of none, and NaN of less."""
    low, high = 2 / 14.5, 1.0
    z = torch.sqrt(-2.0 * torch.log(share))
    return z * polynomial(_TAIL, (2.0 / z - (high + low) / 2) / ((high - low) / 2))
