"""Complex tensors that a model makes itself, of one number or of a line of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from rtaccel.convert.aten import aten
from rtaccel.convert.frontend.complex.pairs import Pair, pair, rule


@rule(aten.full.default)
def _full(size: Any, value: Any, **_: Any) -> Pair:
    given = pair(value)
    return Pair(*(torch.full(size, float(part or 0.0)) for part in given))


def _of_size(value: float) -> Callable[..., Pair]:
    return lambda size, **_: _full(size, value)


def _at_size(value: float) -> Callable[..., Pair]:
    return lambda x, size, **_: _full(size, value)


def _like(value: float) -> Callable[..., Pair]:
    return lambda x, **_: _full(pair(x).re.shape, value)


rule(aten.zeros.default, aten.empty.memory_format)(_of_size(0.0))
rule(aten.ones.default)(_of_size(1.0))
rule(aten.new_zeros.default, aten.new_empty.default)(_at_size(0.0))
rule(aten.new_ones.default)(_at_size(1.0))
rule(aten.zeros_like.default, aten.empty_like.default)(_like(0.0))
rule(aten.ones_like.default)(_like(1.0))


@rule(aten.new_full.default)
def _new_full(x: Any, size: Any, value: Any, **_: Any) -> Pair:
    return _full(size, value)


@rule(aten.full_like.default, aten.fill.Scalar)
def _full_like(x: Any, value: Any, **_: Any) -> Pair:
    return _full(pair(x).re.shape, value)


@rule(aten.linspace.default)
def _linspace(start: Any, end: Any, steps: int, **_: Any) -> Pair:
    first, last = pair(start), pair(end)
    re = torch.linspace(first.re, last.re, steps)
    return Pair(re, torch.linspace(first.im or 0.0, last.im or 0.0, steps))
