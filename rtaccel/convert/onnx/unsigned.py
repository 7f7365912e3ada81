"""Whole numbers without a sign of two bytes and more, for which torch has casts and little else: computed in int64, exactly.

uint64 has the same bits there. Sums, products and bits are those of int64, which wraps around; an order is that of int64 where
the highest bit is turned; a quotient is that of the halves, mended by one.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor

WIDE = (torch.uint16, torch.uint32, torch.uint64)
LOWEST = -(1 << 63)


def exact(function: Callable[..., Any], ordered: bool = False, own: Callable[..., Any] | None = None) -> Any:
    """The function for such tensors too. ordered: it asks which is larger. own: what it is for uint64 in the bits of int64."""

    @wraps(function)
    def apply(*values: Any, **attrs: Any) -> Any:
        dtype = next((v.dtype for v in values if isinstance(v, Tensor) and v.dtype in WIDE), None)
        if dtype is None:
            return function(*values, **attrs)
        turned = ordered and dtype == torch.uint64
        given = [_wide(v, turned) if isinstance(v, Tensor) and v.dtype == dtype else v for v in values]
        made = (own if own is not None and dtype == torch.uint64 else function)(*given, **attrs)
        if made.dtype != torch.int64:
            return made
        made = made ^ LOWEST if turned else made
        return made.view(dtype) if dtype == torch.uint64 else made.to(dtype)

    return apply


def _wide(x: Tensor, turned: bool) -> Tensor:
    made = x.view(torch.int64) if x.dtype == torch.uint64 else x.long()
    return made ^ LOWEST if turned else made


def quotient(a: Tensor, b: Tensor) -> Tensor:
    """Of 64 bits without a sign. A divisor of 2^63 or more goes in once at most."""
    small = torch.where(b < 0, 1, b)
    half = torch.div((a >> 1) & ~LOWEST, small, rounding_mode="trunc") << 1
    more = ((a - half * small) ^ LOWEST) >= (small ^ LOWEST)
    return torch.where(b < 0, ((a ^ LOWEST) >= (b ^ LOWEST)).long(), half + more)


def remainder(a: Tensor, b: Tensor, **attrs: Any) -> Tensor:
    return a - quotient(a, b) * b


def shifted(a: Tensor, b: Tensor, *, direction: str) -> Tensor:
    """To the right zeros come in."""
    if direction == "LEFT":
        return torch.bitwise_left_shift(a, b)
    return torch.where(b == 0, a, ((a >> 1) & ~LOWEST) >> (b - 1).clamp(min=0))
