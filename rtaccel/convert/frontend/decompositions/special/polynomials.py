"""What the special functions share: polynomials, and exponentials of squares without the rounding of the square."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

FINE = 256.0
"""A number below 16 has at most 12 bits in steps of 1 / FINE, so its square has 24: float32 holds it."""


def polynomial(factors: Sequence[float], x: Tensor) -> Tensor:
    """factors[0] + factors[1] * x + ..., in Horner's form."""
    made = x * factors[-1] + factors[-2]
    for factor in reversed(factors[:-2]):
        made = made * x + factor
    return made


def exp_of_square(x: Tensor, factor: float) -> Tensor:
    """exp(factor * x * x) for |x| below 16, as exactly as exp: a square that is rounded would lose digits."""
    near = torch.round(x * FINE) / FINE
    return torch.exp(near * near * factor) * torch.exp((x - near) * (x + near) * factor)


def of_real(call: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Of float32; whole numbers become real ones, as in torch."""

    def apply(x: Tensor) -> Tensor:
        if x.dtype == torch.float64 or x.is_complex():
            raise NotImplementedError
        return call(x if x.is_floating_point() else x.float())

    return apply
