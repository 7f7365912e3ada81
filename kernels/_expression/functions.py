"""The functions of an expression: what each name means in plain torch, and how far a kernel may be off.

functions.def has the same names with their formulas in C++. The activation functions (kernels/_common/activations) belong to
them too; their parameter is a number behind the operand. A truth value is 1.0 or 0.0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rtaccel.kernels._common import activations


@dataclass(frozen=True)
class Function:
    """f(operands). operands: how many. torch: in the dtype of the operands. ulps: bound on the error of one float32 evaluation,
    in units of eps * |f|. absolute: in units of eps, beside that. swapped: the name of f(b, a), where there is one.
    """

    name: str
    operands: int
    torch: Callable[..., Tensor]
    ulps: float = 1.0
    absolute: float = 0.0
    swapped: str | None = None


def _truth(test: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda *operands: test(*operands).to(operands[0].dtype)


def _wide(call: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """In float64: torch's own float32 loops are wrong at the ends of the range."""
    return lambda *operands: call(*(o.double() for o in operands)).to(operands[0].dtype)


def _select(condition: Tensor, yes: Any, no: Any) -> Tensor:
    return torch.where(condition != 0, yes, no)


def _unary() -> list[Function]:
    exact: list[tuple[str, Callable[..., Tensor]]] = [
        ("neg", torch.neg), ("abs", torch.abs), ("sign", torch.sign), ("floor", torch.floor), ("ceil", torch.ceil),
        ("round", torch.round), ("trunc", torch.trunc), ("logical_not", _truth(torch.logical_not)),
        ("truth", _truth(lambda a: a != 0)), ("isnan", _truth(torch.isnan)), ("isinf", _truth(torch.isinf)),
    ]  # fmt: skip
    ulps: list[tuple[str, Callable[..., Tensor], float]] = [
        ("reciprocal", torch.reciprocal, 1), ("sqrt", torch.sqrt, 1), ("rsqrt", torch.rsqrt, 2), ("exp", torch.exp, 2),
        ("expm1", torch.expm1, 2), ("log", torch.log, 3), ("log2", torch.log2, 4), ("log10", torch.log10, 4),
        ("log1p", torch.log1p, 2), ("erf", torch.erf, 5), ("tan", torch.tan, 3), ("asin", torch.asin, 3),
        ("acos", torch.acos, 3), ("atan", torch.atan, 3), ("sinh", _wide(torch.sinh), 3), ("cosh", _wide(torch.cosh), 3),
        ("asinh", torch.asinh, 3), ("acosh", torch.acosh, 3), ("atanh", torch.atanh, 3), ("erfc", torch.erfc, 5),
    ]  # fmt: skip
    found = [Function(name, 1, call, 0) for name, call in exact]
    found += [Function(name, 1, call, bound) for name, call, bound in ulps]
    found += [Function("sin", 1, torch.sin, 2, 1), Function("cos", 1, torch.cos, 2, 1)]
    return [*found, Function("lgamma", 1, _wide(torch.lgamma), 8, 8)]


def _binary() -> list[Function]:
    def pair(name: str, swapped: str | None, call: Callable[..., Tensor], ulps: float) -> list[Function]:
        first = Function(name, 2, call, ulps, swapped=swapped)
        if swapped in (None, name):
            return [first]
        return [first, Function(str(swapped), 2, lambda a, b: call(b, a), ulps, swapped=name)]

    found: list[Function] = []
    for name, swapped, call, ulps in (
        ("add", "add", torch.add, 1.0), ("sub", "rsub", torch.sub, 1.0), ("mul", "mul", torch.mul, 1.0),
        ("div", "rdiv", torch.div, 1.0), ("maximum", "maximum", torch.maximum, 0.0),
        ("minimum", "minimum", torch.minimum, 0.0), ("lt", "gt", _truth(torch.lt), 0.0),
        ("le", "ge", _truth(torch.le), 0.0), ("eq", "eq", _truth(torch.eq), 0.0), ("ne", "ne", _truth(torch.ne), 0.0),
        ("logical_and", "logical_and", _truth(torch.logical_and), 0.0),
        ("logical_or", "logical_or", _truth(torch.logical_or), 0.0),
        ("logical_xor", "logical_xor", _truth(torch.logical_xor), 0.0),
        ("prelu", None, lambda a, w: torch.where(a > 0, a, a * w), 1.0),
        ("hypot", "hypot", torch.hypot, 4.0), ("pow", None, torch.pow, 3.0),
        ("atan2", None, torch.atan2, 3.0), ("fmod", None, _wide(torch.fmod), 0.0),
        ("remainder", None, _wide(torch.remainder), 1.0),
        ("copysign", None, torch.copysign, 0.0),
    ):  # fmt: skip
        found += pair(name, swapped, call, ulps)
    return found


FUNCTIONS: dict[str, Function] = {f.name: f for f in (*_unary(), *_binary(), Function("where", 3, _select, 0))}


def call(name: str, operands: list[Any], parameter: float) -> Tensor:
    """f(operands), in their dtype."""
    if name in FUNCTIONS:
        return FUNCTIONS[name].torch(*operands)
    return activations.apply(name, operands[0], parameter)


def operands_of(name: str) -> int | None:
    """How many operands a function has; None for a name that is none. `copy` gives its operand as it is."""
    if name == "copy" or name in activations.ROWS:
        return 1
    return FUNCTIONS[name].operands if name in FUNCTIONS else None
