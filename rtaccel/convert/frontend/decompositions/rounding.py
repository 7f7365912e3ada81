"""Quotients that are rounded down: real ones by their remainder, since one near a whole number may be on either side of it, and
whole numbers that are shifted."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def floor_divide(x: Any, other: Any) -> Tensor:
    """The largest whole number that is at most x / other. float32; whole numbers have an operator of their own."""
    if not isinstance(x, Tensor):
        x = torch.full_like(other, x)
    if not any(v.is_floating_point() if isinstance(v, Tensor) else isinstance(v, float) for v in (x, other)):
        raise TypeError("of whole numbers")
    quotient = x / other
    if not isinstance(other, Tensor) and other == 0:
        return quotient
    rest = torch.fmod(x, other)
    whole = (x - rest) / other
    if isinstance(other, Tensor):
        turned = torch.logical_and(rest != 0, torch.logical_xor(rest < 0, other < 0))
    else:
        turned = rest < 0 if other > 0 else rest > 0
    whole = torch.where(turned, whole - 1, whole)
    below = torch.floor(whole)
    below = torch.where(whole - below > 0.5, below + 1, below)
    below = torch.where(whole == 0, quotient * 0.0, below)  # with the sign of the quotient
    return torch.where(other == 0, quotient, below) if isinstance(other, Tensor) else below


def divide(x: Any, other: Any, *, rounding_mode: str | None) -> Tensor:
    if rounding_mode != "floor":
        raise TypeError(f"rounding_mode {rounding_mode}")
    return floor_divide(x, other)


def shifted_right(x: Any, bits: Any) -> Tensor:
    """x / 2^bits rounded down, of which nothing but the sign is left above 62 bits."""
    dtype = torch.result_type(x, bits)
    wide, by = torch.as_tensor(x).long(), torch.as_tensor(bits).long()
    quotient = torch.div(wide, 2 ** by.clamp(0, 62), rounding_mode="floor")
    return torch.where(by > 62, -(wide < 0).long(), quotient).to(dtype)


def shifted_left(x: Any, bits: Any) -> Tensor:
    """x * 2^bits, which wraps."""
    dtype = torch.result_type(x, bits)
    return (torch.as_tensor(x).long() * 2 ** torch.as_tensor(bits).long()).to(dtype)
