"""Fourier transforms as products with constant matrices, in two steps where one matrix would be large.

X[k] = sum over j of x[j] exp(-2 pi i j k / n). With n = p q, j = q a + b and k = c + p d, the exponent splits: transforms of p
over a, a rotation by exp(-2 pi i b c / n), transforms of q over b. That is n (p + q) multiply-adds for each part instead of n n.
Angles are reduced in whole numbers and rounded once from float64.
"""

from __future__ import annotations

from math import isqrt, pi, sqrt
from typing import Any

import torch
from torch import Tensor

from rtaccel.convert.frontend.complex.arithmetic import product
from rtaccel.convert.frontend.complex.pairs import NoPairs, Pair, pair, rule

aten = torch.ops.aten

DIRECT = 640
"""Longest transform that is one product: its matrix is 1.6 MB of float32 and stays in L2."""


def waves(rows: int, columns: int, n: int, sign: float, scale: float = 1.0) -> Pair:
    """scale exp(2 pi i sign j k / n), [rows, columns]: constants of the graph, in float64."""
    j, k = torch.arange(rows), torch.arange(columns)
    angle = (j[:, None] * k[None, :] % n).double() * (2 * pi / n)
    return Pair(angle.cos() * scale, angle.sin() * (sign * scale))


def real_times(x: Tensor, matrix: Pair) -> Pair:
    """x[.., n] times a complex matrix [n, m], as one product of real numbers."""
    joined = torch.cat([matrix.re, matrix.im], 1).float()
    found = _rows_times(x, joined)
    m = matrix.re.shape[1]
    return Pair(found[..., :m], found[..., m:])


def _rows_times(x: Tensor, matrix: Tensor) -> Tensor:
    """x[.., n] @ matrix[n, m]. As a batch of products: it is no layer of the model, so no scheme quantizes it."""
    return torch.matmul(x.unsqueeze(-2), matrix[(None,) * (x.dim() - 1)]).squeeze(-2)


def _complex_times(x: Pair, matrix: Pair) -> Pair:
    if x.im is None:
        return real_times(x.re, matrix)
    a, b = real_times(x.re, matrix), real_times(x.im, matrix)
    return Pair(a.re - b.im, a.im + b.re)


def split(n: int) -> int:
    """The largest divisor of n that is at most its root."""
    return next(p for p in range(isqrt(n), 0, -1) if n % p == 0)


def transform(x: Pair, n: int, wanted: int, sign: float, scale: float) -> Pair:
    """The first `wanted` results of the transform of n numbers along the last dimension."""
    p = split(n)
    if n <= DIRECT or p < 8:
        return _complex_times(x, waves(n, wanted, n, sign, scale))
    q = n // p
    lead = x.re.shape[:-1]
    columns = Pair(*(None if part is None else part.reshape(*lead, p, q).transpose(-1, -2) for part in x))  # [b, a]
    over_a = _complex_times(columns, waves(p, p, p, sign))  # [b, c]
    turns = Pair(*(part.float() for part in waves(q, p, n, sign, scale)))
    turned = Pair(*(part.transpose(-1, -2) for part in product(over_a, turns)))  # [c, b]
    over_b = _complex_times(turned, waves(q, q, q, sign))  # [c, d]
    return Pair(*(part.transpose(-1, -2).reshape(*lead, n)[..., :wanted] for part in over_b))


def inverse_to_real(x: Pair, n: int, scale: float, window: Tensor | None = None) -> Tensor:
    """n real numbers whose transform begins with x (n // 2 + 1 numbers), times a window."""
    m = x.re.shape[-1]
    matrix = waves(m, n, n, 1.0, scale)
    twice = torch.full((m, 1), 2.0, dtype=torch.float64)
    middle = [0] + ([n // 2] if n % 2 == 0 and n // 2 < m else [])
    mask = torch.arange(m)[:, None]
    for k in middle:
        twice = torch.where(mask == k, 1.0, twice)
    if window is not None:
        twice = twice * window.double()
    re, im = (matrix.re * twice).float(), (matrix.im * twice).float()
    return _rows_times(x.re, re) - _rows_times(x.imaginary, im)


def scale_of(n: int, norm: Any, inverse: bool) -> float:
    if norm == "ortho":
        return 1.0 / sqrt(n)
    return 1.0 / n if (norm == "forward") != inverse else 1.0


def _along(x: Pair, dim: int, n: int | None) -> tuple[Pair, int]:
    """With the dimension last, cut or padded to n."""
    size = x.re.shape[dim]
    if not isinstance(size, int):
        raise NoPairs("a transform of an open length")
    n = size if n is None else int(n)

    def part(t: Tensor | None) -> Tensor | None:
        if t is None:
            return None
        t = t.movedim(dim, -1)
        return t if n == size else t[..., :n] if n < size else torch.nn.functional.pad(t, (0, n - size))

    return Pair(*(part(t) for t in x)), n


def _back(x: Any, dim: int) -> Any:
    return Pair(*(part.movedim(-1, dim) for part in x)) if isinstance(x, Pair) else x.movedim(-1, dim)


def _to_complex(x: Any, n: Any, dim: int, norm: Any, inverse: bool, half: bool) -> Pair:
    given, size = _along(pair(x), dim, n)
    wanted = size // 2 + 1 if half else size
    return _back(transform(given, size, wanted, 1.0 if inverse else -1.0, scale_of(size, norm, inverse)), dim)


def _to_real(x: Any, n: Any, dim: int, norm: Any) -> Tensor:
    given = pair(x)
    size = 2 * (given.re.shape[dim] - 1) if n is None else int(n)
    given, _ = _along(given, dim, size // 2 + 1)
    return _back(inverse_to_real(given, size, scale_of(size, norm, True)), dim)


@rule(aten.fft_rfft.default)
def _rfft(x: Any, n: Any = None, dim: int = -1, norm: Any = None) -> Pair:
    return _to_complex(x, n, dim, norm, False, True)


@rule(aten.fft_fft.default)
def _fft(x: Any, n: Any = None, dim: int = -1, norm: Any = None) -> Pair:
    return _to_complex(x, n, dim, norm, False, False)


@rule(aten.fft_ifft.default)
def _ifft(x: Any, n: Any = None, dim: int = -1, norm: Any = None) -> Pair:
    return _to_complex(x, n, dim, norm, True, False)


@rule(aten.fft_irfft.default)
def _irfft(x: Any, n: Any = None, dim: int = -1, norm: Any = None) -> Tensor:
    return _to_real(x, n, dim, norm)


def _dims(x: Pair, s: Any, dim: Any) -> tuple[list[int], list[Any]]:
    count = x.re.dim()
    dims = (
        list(range(count)) if dim is None and s is None else list(dim) if dim is not None else list(range(-len(s), 0))
    )
    return [d % count for d in dims], list(s) if s is not None else [None] * len(dims)


@rule(aten.fft_rfftn.default)
def _rfftn(x: Any, s: Any = None, dim: Any = None, norm: Any = None) -> Pair:
    dims, sizes = _dims(pair(x), s, dim)
    found = _to_complex(x, sizes[-1], dims[-1], norm, False, True)
    for d, n in zip(dims[:-1], sizes[:-1]):
        found = _to_complex(found, n, d, norm, False, False)
    return found


@rule(aten.fft_fftn.default)
def _fftn(x: Any, s: Any = None, dim: Any = None, norm: Any = None) -> Pair:
    found = pair(x)
    for d, n in zip(*_dims(found, s, dim)):
        found = _to_complex(found, n, d, norm, False, False)
    return found


@rule(aten.fft_ifftn.default)
def _ifftn(x: Any, s: Any = None, dim: Any = None, norm: Any = None) -> Pair:
    found = pair(x)
    for d, n in zip(*_dims(found, s, dim)):
        found = _to_complex(found, n, d, norm, True, False)
    return found


@rule(aten.fft_irfftn.default)
def _irfftn(x: Any, s: Any = None, dim: Any = None, norm: Any = None) -> Tensor:
    found = pair(x)
    dims, sizes = _dims(found, s, dim)
    for d, n in zip(dims[:-1], sizes[:-1]):
        found = _to_complex(found, n, d, norm, True, False)
    return _to_real(found, sizes[-1], dims[-1], norm)


def _of_two(transform: Any) -> Any:
    """Over the last two dimensions where none are named."""
    return lambda x, s=None, dim=(-2, -1), norm=None: transform(x, s, dim, norm)


for _target, _transform in (
    (aten.fft_rfft2.default, _rfftn),
    (aten.fft_fft2.default, _fftn),
    (aten.fft_ifft2.default, _ifftn),
    (aten.fft_irfft2.default, _irfftn),
):
    rule(_target)(_of_two(_transform))
