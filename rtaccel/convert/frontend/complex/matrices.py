"""Fourier transforms as products with constant matrices, for lengths of large factors; in two steps where one would be large.

X[k] = sum over j of x[j] exp(-2 pi i j k / n). With n = p q, j = q a + b and k = c + p d, the exponent splits: transforms of p
over a, a rotation by exp(-2 pi i b c / n), transforms of q over b. That is n (p + q) multiply-adds for each part instead of n n.
Angles are reduced in whole numbers and rounded once from float64.
"""

from __future__ import annotations

from math import isqrt, pi

import torch
from torch import Tensor

from rtaccel.convert.frontend.complex.arithmetic import product
from rtaccel.convert.frontend.complex.pairs import Pair
from rtaccel.convert.frontend.complex.transform import TARGET
from rtaccel.convert.frontend.decompose import OWN, WITH_PRODUCTS

DIRECT = 640
"""Longest transform that is one product: its matrix is 1.6 MB of float32 and stays in L2."""


def _waves(rows: int, columns: int, n: int, sign: float, scale: float = 1.0) -> Pair:
    """scale exp(2 pi i sign j k / n), [rows, columns]: constants of the graph, in float64."""
    j, k = torch.arange(rows), torch.arange(columns)
    turn = j[:, None] * k[None, :] % n
    angle = turn.double() * (2 * pi / n)
    sine = angle.sin().where(2 * turn % n != 0, 0.0)  # of half a turn too, so that no phase of a real number is noise
    return Pair(angle.cos() * scale, sine * (sign * scale))


def _rows_times(x: Tensor, matrix: Tensor) -> Tensor:
    """x[.., n] @ matrix[n, m]. As a batch of products: it is no layer of the model, so no scheme quantizes it."""
    matrix = matrix.to(x.dtype)
    return torch.matmul(x.unsqueeze(-2), matrix[(None,) * (x.dim() - 1)]).squeeze(-2)


def _real_times(x: Tensor, matrix: Pair) -> Pair:
    """x[.., n] times a complex matrix [n, m], as one product of real numbers."""
    found = _rows_times(x, torch.cat([matrix.re, matrix.im], 1))
    m = matrix.re.shape[1]
    return Pair(found[..., :m], found[..., m:])


def _complex_times(x: Pair, matrix: Pair) -> Pair:
    if x.im is None:
        return _real_times(x.re, matrix)
    a, b = _real_times(x.re, matrix), _real_times(x.im, matrix)
    return Pair(a.re - b.im, a.im + b.re)


def split(n: int) -> int:
    """The largest divisor of n that is at most its root."""
    return next(p for p in range(isqrt(n), 0, -1) if n % p == 0)


def _in_two_steps(x: Pair, n: int, wanted: int, sign: float, scale: float) -> Pair:
    """The first `wanted` results of the transform of n numbers along the last dimension."""
    p, lead = split(n), x.re.shape[:-1]
    q = n // p
    columns = Pair(*(None if part is None else part.reshape(*lead, p, q).transpose(-1, -2) for part in x))  # [b, a]
    over_a = _complex_times(columns, _waves(p, p, p, sign))  # [b, c]
    turns = Pair(*(part.to(x.re.dtype) for part in _waves(q, p, n, sign, scale)))
    turned = Pair(*(part.transpose(-1, -2) for part in product(over_a, turns)))  # [c, b]
    over_b = _complex_times(turned, _waves(q, q, q, sign))  # [c, d]
    return Pair(*(part.transpose(-1, -2).reshape(*lead, n)[..., :wanted] for part in over_b))


def _to_real(x: Tensor, n: int, scale: float) -> Tensor:
    """n real numbers whose transform begins with x: n // 2 + 1 numbers."""
    m = n // 2 + 1
    matrix = _waves(m, n, n, 1.0, scale)
    k = torch.arange(m)[:, None]
    once = (k == 0) | (2 * k == n)  # the others stand for two numbers, which are conjugates
    twice = torch.where(once, 1.0, 2.0).double()
    return _rows_times(x, torch.cat([matrix.re * twice, -matrix.im * twice]))


def by_matrices(
    x: Tensor, window: Tensor | None, kind: str, n: int, wanted: int, inverse: bool, scale: float
) -> Tensor:
    """What the call means."""
    if kind == "to_real":
        return _to_real(x, n, scale)
    x = x if window is None else x * window
    sign = 1.0 if inverse else -1.0
    if n <= DIRECT or split(n) < 8:
        w = _waves(n, wanted, n, sign, scale)
        rows = torch.cat([w.re, w.im], 1)
        matrix = rows if kind == "real" else torch.cat([rows, torch.cat([-w.im, w.re], 1)])
        return _rows_times(x, matrix)
    given = Pair(x) if kind == "real" else Pair(x[..., :n], x[..., n:])
    re, im = _in_two_steps(given, n, wanted, sign, scale)
    if kind == "real" and im is not None:
        im = torch.where(2 * torch.arange(wanted) % n == 0, torch.zeros(()), im)
    return torch.cat([re, im], -1)


OWN[TARGET] = by_matrices
WITH_PRODUCTS.add(TARGET)
