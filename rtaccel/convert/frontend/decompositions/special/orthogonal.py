"""Orthogonal polynomials of a constant degree, by their recurrences of three terms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rtaccel.convert.aten import aten

MOST = 32
"""Degrees; a plan of more steps is no faster than torch."""

Step = Callable[[Tensor, Tensor, Tensor, int], Tensor]


def _recurrence(first: Callable[[Tensor], Tensor], step: Step) -> Callable[[Tensor, Any], Tensor]:
    """first: degree 1. step: degree k + 1 of x and degrees k and k - 1."""

    def apply(x: Tensor, n: Any) -> Tensor:
        if x.dtype != torch.float32 or isinstance(n, Tensor) or n > MOST:
            raise NotImplementedError
        n = int(n)
        if n < 0:
            return x * 0.0
        before = x * 0.0 + 1.0
        if n == 0:
            return before
        now = first(x)
        for k in range(1, n):
            before, now = now, step(x, now, before, k)
        return now

    return apply


def _doubled(x: Tensor, now: Tensor, before: Tensor, k: int) -> Tensor:
    return (x + x) * now - before


_STEPS: dict[str, tuple[Callable[[Tensor], Tensor], Step]] = {
    "chebyshev_polynomial_t": (lambda x: x * 1.0, _doubled),
    "chebyshev_polynomial_u": (lambda x: x + x, _doubled),
    "chebyshev_polynomial_v": (lambda x: (x + x) - 1.0, _doubled),
    "chebyshev_polynomial_w": (lambda x: (x + x) + 1.0, _doubled),
    "hermite_polynomial_h": (lambda x: x + x, lambda x, now, before, k: (x + x) * now - before * (2.0 * k)),
    "hermite_polynomial_he": (lambda x: x * 1.0, lambda x, now, before, k: x * now - before * float(k)),
    "laguerre_polynomial_l": (
        lambda x: 1.0 - x, lambda x, now, before, k: ((2.0 * k + 1.0 - x) * now - before * float(k)) / (k + 1.0),
    ),
    "legendre_polynomial_p": (
        lambda x: x * 1.0, lambda x, now, before, k: (x * now * (2.0 * k + 1.0) - before * float(k)) / (k + 1.0),
    ),
}  # fmt: skip

ORTHOGONAL: dict[Any, Callable[..., Tensor]] = {
    getattr(aten, f"special_{name}").n_scalar: _recurrence(*steps) for name, steps in _STEPS.items()
}
"""By the call that is taken apart."""
