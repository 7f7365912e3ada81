"""How a transform is taken apart: lengths, radices, and every root of unity that the kernel multiplies by.

A transform of m = p q numbers is p-point transforms down the columns of [p, q], a rotation, and q-point transforms down the
columns of the transposed result. Each of those is a chain of small butterflies on whole rows (Stockham: no bits are reversed).
Roots are computed in float64 from angles reduced in whole numbers, and rounded once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import isqrt

import torch
from torch import Tensor

RADICES = (4, 2, 3, 5, 7, 11, 13)
MIN_SIDE = 4
"""Of p and q: a row of fewer numbers fills no vector, and a plain product is as good."""


@dataclass(frozen=True)
class Split:
    """count: complex numbers of the transform inside. p <= q: its two lengths. paired: n real numbers as n / 2 complex ones."""

    count: int
    p: int
    q: int
    paired: bool


def split(n: int, real: bool) -> Split | None:
    """None where n has too large a factor, or none near its root."""
    paired = real and n % 2 == 0
    count = n // 2 if paired else n
    p = next(p for p in range(isqrt(count), 0, -1) if count % p == 0)
    if p < MIN_SIDE or radices(count) is None:
        return None
    return Split(count, p, count // p, paired)


def radices(length: int) -> tuple[int, ...] | None:
    """Factors in the order of the butterflies; None where one is larger than the last of RADICES."""
    found: list[int] = []
    for radix in RADICES:
        while length % radix == 0:
            found.append(radix)
            length //= radix
    return tuple(found) if length == 1 else None


def roots(numbers: Iterable[int] | Tensor, n: int) -> Tensor:
    """exp(-2 pi i k / n): [.., 2], float32."""
    k = torch.as_tensor(list(numbers) if not isinstance(numbers, Tensor) else numbers) % n
    angle = k.double() * (2 * torch.pi / n)
    return torch.stack([angle.cos(), -angle.sin()], -1).float()


def butterflies(length: int) -> tuple[tuple[int, ...], Tensor]:
    """Radices, and for each of them the roots of the radix, then those of each butterfly: what the kernel reads in order."""
    factors = radices(length)
    assert factors is not None
    parts = []
    left = length
    for radix in factors:
        parts.append(roots(range(radix), radix).reshape(-1))
        j, k = torch.arange(left // radix), torch.arange(radix)
        parts.append(roots(j[:, None] * k[None, :], left).reshape(-1))
        left //= radix
    return factors, torch.cat(parts) if parts else torch.zeros(0)


def rotation(p: int, q: int) -> tuple[Tensor, Tensor]:
    """[p, q], real and imaginary: between the two steps."""
    found = roots(torch.arange(p)[:, None] * torch.arange(q)[None, :], p * q)
    return found[..., 0].contiguous(), found[..., 1].contiguous()
