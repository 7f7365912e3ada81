"""Modified Bessel functions of the first and the second kind, of orders 0 and 1."""

from __future__ import annotations

from math import inf, log, nan

import torch
from torch import Tensor

from rtaccel.convert.frontend.decompositions.special.polynomials import polynomial

_FIRST = (
    (0.235689199, 0.130027087, 0.110636797, 0.109386058, 0.119366597, 0.133599822, 0.131173312, 0.0828433791, -0.0042020212,
     -0.0564297219, -0.022624387, 0.0278062878, 0.0171507423, -0.0114848403, -0.00708589396, 0.0032434608, 0.00132942054,
     -0.000425274412),
    (0.0716777459, 0.0965704819, 0.105085789, 0.10085178, 0.0832862714, 0.0520755776, 0.0135373211, -0.0150761606,
     -0.0167603223, 0.00135683782, 0.0106900369, 0.0016310302, -0.00569889436, -0.00160002508, 0.00214864309, 0.000789059196,
     -0.000394303441, -0.000170877359),
)  # fmt: skip
"""exp(-x) I0(x) / t^(1/2) and exp(-x) I1(x) / x / t^(3/2) for t = 6 / (6 + x), in 2 t - 1."""

_SMALL_FIRST = (
    (1.56608293, 0.635861726, 0.0735898507, 0.00392857299, 0.000119868718, 2.3515987e-06),
    (0.635861728, 0.147179737, 0.011785694, 0.000479283051, 1.17913197e-05, 1.9394869e-07),
)
"""I0(x) and I1(x) / x up to x = 2, in x^2 / 2 - 1."""

_SMALL_SECOND = (
    (-0.303620771, 0.340497321, 0.0717769761, 0.00505339186, 0.000182896968, 4.05583078e-06),
    (0.885088288, -0.332240956, -0.243838529, -0.0278542273, -0.00138316871, -3.89344983e-05, -7.083053e-07),
)
"""K0(x) + log(x / 2) I0(x) and x (K1(x) - log(x / 2) I1(x)) up to x = 2, in x^2 / 2 - 1."""

_LARGE_SECOND = (
    (1.21859534, -0.0310714473, 0.00303286466, -0.000479957409, 9.97422171e-05, -2.40870084e-05, 6.57467849e-06,
     -2.98347694e-06, 1.13958598e-06),
    (1.36315189, 0.103349721, -0.00556669104, 0.000735945869, -0.000139838305, 3.2076766e-05, -8.40324245e-06, 3.67256914e-06,
     -1.40152564e-06),
)  # fmt: skip
"""exp(x) sqrt(x) K(x) from x = 2 on, in 4 / x - 1."""


def i0e(x: Tensor) -> Tensor:
    """exp(-|x|) I0(x)."""
    t = 6.0 / (6.0 + x.abs())
    return torch.sqrt(t) * polynomial(_FIRST[0], t * 2.0 - 1.0)


def i1e(x: Tensor) -> Tensor:
    """exp(-|x|) I1(x)."""
    size = x.abs()
    t = 6.0 / (6.0 + size)
    part = torch.where(size < inf, size * t, 6.0)  # of an infinite number, inf * 0
    return torch.sign(x) * part * torch.sqrt(t) * polynomial(_FIRST[1], t * 2.0 - 1.0)


def i0(x: Tensor) -> Tensor:
    return _grown(i0e(x), x.abs())


def i1(x: Tensor) -> Tensor:
    return _grown(i1e(x), x.abs())


def _grown(scaled: Tensor, size: Tensor) -> Tensor:
    """scaled * exp(size), where exp alone would be too large before the product is; infinite stays infinite."""
    half = torch.exp(size * 0.5)
    return torch.where(size < 256.0, scaled * half * half, torch.sign(scaled) * torch.exp(size))


def _second(x: Tensor, order: int, scaled: bool) -> Tensor:
    """K of an order, times exp(x) where `scaled`. Infinite at 0, and NaN below."""
    u, near = x * x * 0.5 - 1.0, x.clamp(max=2.0)
    first, own = polynomial(_SMALL_FIRST[order], u), polynomial(_SMALL_SECOND[order], u)
    logarithm = torch.log(near) - log(2)
    small = own - logarithm * first if order == 0 else own / near + logarithm * (near * first)
    far = polynomial(_LARGE_SECOND[order], 4.0 / x - 1.0) / torch.sqrt(x)
    found = (
        torch.where(x <= 2.0, small * torch.exp(near), far)
        if scaled
        else torch.where(x <= 2.0, small, far * torch.exp(-x))
    )
    return torch.where(x < 0, nan, torch.where(x == 0, inf, found))


def k0(x: Tensor) -> Tensor:
    return _second(x, 0, False)


def k1(x: Tensor) -> Tensor:
    return _second(x, 1, False)


def scaled_k0(x: Tensor) -> Tensor:
    return _second(x, 0, True)


def scaled_k1(x: Tensor) -> Tensor:
    return _second(x, 1, True)
