"""Fourier transforms of pairs, each dimension as one call."""

from __future__ import annotations

from math import sqrt
from typing import Any

import torch
from torch import Tensor

from rtaccel.convert.aten import aten
from rtaccel.convert.frontend.complex.pairs import NoPairs, Pair, pair, rule
from rtaccel.convert.frontend.complex.transform import TARGET


def forward(x: Pair, n: int, wanted: int, scale: float, inverse: bool = False, window: Tensor | None = None) -> Pair:
    """The first `wanted` numbers of the transform of n along the last dimension. window: of real numbers."""
    if x.im is None:
        found = TARGET(x.re, window, "real", n, wanted, False, scale)
        return Pair(found[..., :wanted], -found[..., wanted:] if inverse else found[..., wanted:])
    found = TARGET(torch.cat([x.re, x.im], -1), None, "complex", n, wanted, inverse, scale)
    return Pair(found[..., :wanted], found[..., wanted:])


def inverse_to_real(x: Pair, n: int, scale: float) -> Tensor:
    """n real numbers whose transform begins with x, n // 2 + 1 numbers."""
    return TARGET(torch.cat([x.re, x.imaginary], -1), None, "to_real", n, n // 2 + 1, True, scale)


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
    if not half and given.im is None:  # operators know the first half of the transform of real numbers
        given = Pair(given.re, given.imaginary)
    wanted = size // 2 + 1 if half else size
    return _back(forward(given, size, wanted, scale_of(size, norm, inverse), inverse), dim)


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


_OTHER = {None: "forward", "backward": "forward", "forward": "backward", "ortho": "ortho"}
"""By how a transform is scaled, how its inverse is."""


@rule(aten.fft_hfft.default)
def _hfft(x: Any, n: Any = None, dim: int = -1, norm: Any = None) -> Tensor:
    """Of a Hermitian signal, whose transform is real."""
    given = pair(x)
    return _to_real(Pair(given.re, None if given.im is None else -given.im), n, dim, _OTHER[norm])


@rule(aten.fft_ihfft.default)
def _ihfft(x: Any, n: Any = None, dim: int = -1, norm: Any = None) -> Pair:
    found = _to_complex(x, n, dim, _OTHER[norm], False, True)
    return Pair(found.re, -found.imaginary)


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


def _over(inverse: bool) -> Any:
    def apply(x: Any, s: Any = None, dim: Any = None, norm: Any = None) -> Pair:
        found = pair(x)
        for d, n in zip(*_dims(found, s, dim)):
            found = _to_complex(found, n, d, norm, inverse, False)
        return found

    return apply


_fftn, _ifftn = _over(False), _over(True)
rule(aten.fft_fftn.default)(_fftn)
rule(aten.fft_ifftn.default)(_ifftn)


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

TO_REAL = {aten.fft_irfft.default, aten.fft_irfftn.default, aten.fft_irfft2.default, aten.fft_hfft.default}
"""Transforms that give real numbers, and take them too."""
