"""Quotients that are rounded down by their remainder: one near a whole number may be on either side of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def floor_divide(x: Any, other: Any) -> Tensor:
    """The largest whole number that is at most x / other. float32; whole numbers have an operator of their own."""
    if not isinstance(x, Tensor):
        x = torch.full_like(other, x)
    if not (x.is_floating_point() or isinstance(other, float)):
        raise TypeError("of whole numbers")
    rest = torch.fmod(x, other)
    whole = (x - rest) / other
    zero = torch.zeros_like(rest)
    turned = torch.logical_and(rest != 0, torch.logical_xor(rest < 0, zero > other))
    whole = torch.where(turned, whole - 1, whole)
    below = torch.floor(whole)
    below = torch.where(whole - below > 0.5, below + 1, below)
    quotient = x / other
    below = torch.where(whole == 0, torch.copysign(zero, quotient), below)
    return torch.where(zero == other, quotient, below)


def divide(x: Any, other: Any, *, rounding_mode: str | None) -> Tensor:
    if rounding_mode != "floor":
        raise TypeError(f"rounding_mode {rounding_mode}")
    return floor_divide(x, other)
