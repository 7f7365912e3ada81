"""Bessel functions of the first and the second kind, of orders 0 and 1: near their zeros as near as float32 is to 1.

Up to 5 from a polynomial times what is 0 at the first two zeros; beyond, J + i Y = sqrt(2 / (pi x)) (P + i Q) exp(i phase).
"""

from __future__ import annotations

from math import inf, nan, pi, sqrt

import torch
from torch import Tensor

from rtaccel.convert.frontend.decompositions.special.polynomials import polynomial

_ZEROS = ((5.78318596294678452118, 30.4712623436620863991), (14.6819706421238932572, 49.2184563216946036703))
"""Squares of the first two zeros of J0 and J1."""

_FIRST = (
    (0.00318735563, -0.00192108704, 0.000487682744, -7.12170139e-05, 6.85494502e-06, -4.70632554e-07, 2.43476381e-08,
     -9.72212219e-10),
    (0.000432369873, -0.000209326722, 4.42186893e-05, -5.51549269e-06, 4.62597691e-07, -2.81112622e-08, 1.30312719e-09,
     -4.72320574e-11),
)  # fmt: skip
"""J0(x) and J1(x) / x over both factors of their zeros, in x^2 / 12.5 - 1."""

_SECOND = (
    (0.483724858, -0.432655822, -0.470576364, 0.3885164, -0.11151683, 0.0176353437, -0.00180278973, 0.000129945281,
     -7.00966024e-06, 2.9225758e-07),
    (0.13974939, 0.0910865086, -0.163120203, 0.0663469535, -0.0134334332, 0.00166880727, -0.000141417121, 8.72812836e-06,
     -4.12710402e-07, 1.74446714e-08),
)  # fmt: skip
"""Y0(x) - 2 / pi log(x) J0(x) and (Y1(x) - 2 / pi (log(x) J1(x) - 1 / x)) / x, in x^2 / 12.5 - 1."""

_P = (
    (0.998634634, -0.00132735407, 3.49024782e-05, -2.45490654e-06, 3.15758496e-07, -5.75521611e-08),
    (1.00229087, 0.00224123067, -4.57648086e-05, 2.97291078e-06, -3.67002007e-07, 6.53446638e-08),
)
_Q = (
    (-0.0247230157, 0.000262567859, -1.31364814e-05, 8.64870354e-07, -2.90306326e-07, 6.59629417e-08),
    (0.0746095596, -0.000372374268, 1.68497524e-05, -5.94131084e-07, 4.43333145e-07, -9.70808843e-08),
)
"""P, and Q x / 5, in 25 / x^2 from 0.0001 to 1."""

_EDGE = 5.0


def _near(x: Tensor, order: int) -> Tensor:
    """J up to the edge."""
    u = x * x
    first, second = _ZEROS[order]
    made = (u - first) * (u - second) * polynomial(_FIRST[order], u / 12.5 - 1.0)
    return made * x if order else made


def _far(x: Tensor, order: int, second: bool) -> Tensor:
    """J, or Y, of numbers beyond the edge. The phase is x - pi / 4 or x - 3 pi / 4, by the sine and the cosine of x itself."""
    fifth = _EDGE / x
    z = (fifth * fifth - 0.50005) / 0.49995
    p, q = polynomial(_P[order], z), fifth * polynomial(_Q[order], z)
    sine, cosine = torch.sin(x), torch.cos(x)
    plus, minus = sine + cosine, sine - cosine
    across, up = (plus, minus) if order == 0 else (minus, -plus)  # sqrt(2) times cosine and sine of the phase
    made = p * up + q * across if second else p * across - q * up
    return made * sqrt(1 / pi) / torch.sqrt(x)


def _first_kind(x: Tensor, order: int) -> Tensor:
    size = x.abs()
    far = _far(size.clamp(min=_EDGE), order, False)
    found = torch.where(size <= _EDGE, _near(size.clamp(max=_EDGE), order), far)
    return torch.sign(x) * found if order else found


def _second_kind(x: Tensor, order: int) -> Tensor:
    """Infinite at 0, and NaN below."""
    near = x.clamp(max=_EDGE)
    own = polynomial(_SECOND[order], near * near / 12.5 - 1.0)
    part = torch.log(near) * _near(near, order)
    small = own + part * (2 / pi) if order == 0 else own * near + (part - 1.0 / near) * (2 / pi)
    found = torch.where(x <= _EDGE, small, _far(x.clamp(min=_EDGE), order, True))
    return torch.where(x < 0, nan, torch.where(x == 0, -inf, found))


def j0(x: Tensor) -> Tensor:
    return _first_kind(x, 0)


def j1(x: Tensor) -> Tensor:
    return _first_kind(x, 1)


def y0(x: Tensor) -> Tensor:
    return _second_kind(x, 0)


def y1(x: Tensor) -> Tensor:
    return _second_kind(x, 1)


def spherical_j0(x: Tensor) -> Tensor:
    """sin(x) / x; 0 of an infinite number."""
    size = x.abs()
    near = 1.0 - x * x * (1 / 6 - x * x / 120)
    return torch.where(size < 0.125, near, torch.where(size == inf, 0.0, torch.sin(x) / x))
