"""A complex tensor as two real ones, and the table of what ATen calls do to such pairs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Pair(NamedTuple):
    """re + i im; an imaginary part of None is zero everywhere."""

    re: Any
    im: Any = None

    @property
    def imaginary(self) -> Any:
        return torch.zeros_like(self.re) if self.im is None else self.im


RULES: dict[Any, Callable[..., Any]] = {}


class NoPairs(Exception):
    """A call that is not known for pairs, or not with these arguments."""


def rule(*targets: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        RULES.update(dict.fromkeys(targets, function))
        return function

    return add


def pair(value: Any) -> Pair:
    """A tensor or number as a pair."""
    if isinstance(value, Pair):
        return value
    if isinstance(value, complex):
        return Pair(value.real, value.imag)
    if isinstance(value, Tensor | int | float):
        return Pair(value)
    raise NoPairs(f"{type(value).__name__}")


def is_zero(value: Any) -> bool:
    return value is None or (not isinstance(value, Tensor) and value == 0)


def plus(a: Any, b: Any) -> Any:
    if is_zero(a):
        return b
    return a if is_zero(b) else a + b


def minus(a: Any, b: Any) -> Any:
    if is_zero(b):
        return a
    return -b if is_zero(a) else a - b


def times(a: Any, b: Any) -> Any:
    return None if is_zero(a) or is_zero(b) else a * b
