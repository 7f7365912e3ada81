"""Operators that treat elements alike: arithmetic, comparisons, logic, activations, casts."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rtaccel.convert.onnx import unsigned
from rtaccel.convert.onnx.dtypes import dtype_of
from rtaccel.convert.onnx.table import op
from rtaccel.convert.onnx.unsigned import exact

_UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "Abs": torch.abs, "Neg": torch.neg, "Sqrt": torch.sqrt, "Reciprocal": torch.reciprocal, "Exp": torch.exp,
    "Log": torch.log, "Floor": torch.floor, "Ceil": torch.ceil, "Round": torch.round,
    "Erf": torch.erf, "Sin": torch.sin, "Cos": torch.cos, "Tan": torch.tan, "Asin": torch.asin, "Acos": torch.acos,
    "Atan": torch.atan, "Sinh": torch.sinh, "Cosh": torch.cosh, "Asinh": torch.asinh, "Acosh": torch.acosh,
    "Atanh": torch.atanh, "Tanh": torch.tanh, "Sigmoid": torch.sigmoid, "Relu": torch.relu, "IsNaN": torch.isnan,
    "Not": torch.logical_not, "BitwiseNot": torch.bitwise_not, "Softplus": F.softplus, "Softsign": F.softsign,
    "HardSwish": F.hardswish, "Mish": F.mish,
}  # fmt: skip

_BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Add": torch.add, "Sub": torch.sub, "Mul": torch.mul, "Equal": torch.eq, "Less": torch.lt,
    "LessOrEqual": torch.le, "Greater": torch.gt, "GreaterOrEqual": torch.ge, "And": torch.logical_and,
    "Or": torch.logical_or, "Xor": torch.logical_xor, "BitwiseAnd": torch.bitwise_and,
    "BitwiseOr": torch.bitwise_or, "BitwiseXor": torch.bitwise_xor,
}  # fmt: skip

_ORDERED = ("Less", "LessOrEqual", "Greater", "GreaterOrEqual")

for _name, _function in {name: exact(function) for name, function in _UNARY.items()}.items():
    op(_name)(lambda x, _f=_function: _f(x))
for _name, _pair in {name: exact(function, ordered=name in _ORDERED) for name, function in _BINARY.items()}.items():
    op(_name)(lambda a, b, _f=_pair: _f(a, b))


@op("Identity")
def identity(x: Tensor) -> Tensor:
    return x


@op("Sign")
def sign(x: Tensor) -> Tensor:
    """A NaN stays one."""
    return torch.where(x != x, x, torch.sign(x)) if x.is_floating_point() else torch.sign(x)


@op("Div")
def div(a: Tensor, b: Tensor) -> Tensor:
    """Whole numbers toward zero."""
    return torch.div(a, b) if a.is_floating_point() else _quotient(a, b)


_quotient = exact(lambda a, b: torch.div(a, b, rounding_mode="trunc"), own=unsigned.quotient)


@op("Mod")
def mod(a: Tensor, b: Tensor, *, fmod: int = 0) -> Tensor:
    return _remainder(a, b, fmod=fmod)


_remainder = exact(lambda a, b, fmod: torch.fmod(a, b) if fmod else torch.remainder(a, b), own=unsigned.remainder)


@op("Pow", scalars=(1,))
def power(a: Tensor, b: Tensor | float) -> Tensor:
    made = torch.pow(a, b)
    return made if made.dtype == a.dtype else made.to(a.dtype)


@op("BitShift")
def bit_shift(a: Tensor, b: Tensor, *, direction: str) -> Tensor:
    return _shifted(a, b, direction=direction)


_shifted = exact(
    lambda a, b, direction: (torch.bitwise_left_shift if direction == "LEFT" else torch.bitwise_right_shift)(a, b),
    own=unsigned.shifted,
)


@op("Sum")
def total(*values: Tensor) -> Tensor:
    return reduce(exact(torch.add), values)


@op("Mean")
def mean(*values: Tensor) -> Tensor:
    return reduce(torch.add, values) / len(values)


@op("Max")
def maximum(*values: Tensor) -> Tensor:
    return reduce(_MAXIMUM, values)


@op("Min")
def minimum(*values: Tensor) -> Tensor:
    return reduce(_MINIMUM, values)


_MAXIMUM, _MINIMUM = exact(torch.maximum, ordered=True), exact(torch.minimum, ordered=True)


@op("Where")
def where(condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(condition, a, b)


@op("IsInf")
def is_inf(x: Tensor, *, detect_negative: int = 1, detect_positive: int = 1) -> Tensor:
    if detect_negative and detect_positive:
        return torch.isinf(x)
    return x == (math.inf if detect_positive else -math.inf) if detect_positive or detect_negative else x != x + 0 * x


@op("Clip", scalars=(1, 2))
def clip(
    x: Tensor, low: Tensor | float | None = None, high: Tensor | float | None = None, *,
    min: float | None = None, max: float | None = None,
) -> Tensor:  # fmt: skip
    """Bounds as inputs (opset 11 on) or as attributes."""
    low, high = min if low is None else low, max if high is None else high
    if low is None and high is None:
        return x
    if isinstance(low, Tensor) or isinstance(high, Tensor) or x.dtype in unsigned.WIDE:
        made = x if low is None else _MAXIMUM(x, _as_tensor(low, x))
        return made if high is None else _MINIMUM(made, _as_tensor(high, x))
    return torch.clamp(x, low, high)


def _as_tensor(bound: Tensor | float, x: Tensor) -> Tensor:
    return bound if isinstance(bound, Tensor) else torch.scalar_tensor(bound, dtype=x.dtype)


@op("LeakyRelu")
def leaky_relu(x: Tensor, *, alpha: float = 0.01) -> Tensor:
    return F.leaky_relu(x, alpha)


@op("Elu")
def elu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return F.elu(x, alpha)


@op("Celu")
def celu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return F.celu(x, alpha)


_SELU = (1.67326319217681884765625, 1.05070102214813232421875)


@op("Selu")
def selu(x: Tensor, *, alpha: float = _SELU[0], gamma: float = _SELU[1]) -> Tensor:
    if abs(alpha - _SELU[0]) < 1e-4 and abs(gamma - _SELU[1]) < 1e-4:  # older opsets round them to four digits
        return F.selu(x) if (alpha, gamma) == _SELU else gamma * F.elu(x, alpha)
    return gamma * F.elu(x, alpha)


@op("HardSigmoid")
def hard_sigmoid(x: Tensor, *, alpha: float = 0.2, beta: float = 0.5) -> Tensor:
    return torch.clamp(x * alpha + beta, 0.0, 1.0)


@op("ThresholdedRelu")
def thresholded_relu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return torch.where(x > alpha, x, torch.zeros_like(x))


@op("Shrink")
def shrink(x: Tensor, *, bias: float = 0.0, lambd: float = 0.5) -> Tensor:
    return torch.where(x < -lambd, x + bias, torch.where(x > lambd, x - bias, torch.zeros_like(x)))


@op("PRelu")
def prelu(x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x < 0, x * slope, x)


@op("Gelu")
@op("Gelu", domain="com.microsoft")
def gelu(x: Tensor, *, approximate: str = "none") -> Tensor:
    return F.gelu(x, approximate=approximate)


@op("QuickGelu", domain="com.microsoft")
@op("Swish")
def swish(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return F.silu(x) if alpha == 1.0 else x * torch.sigmoid(alpha * x)


@op("Cast", "CastLike", builds=True)
def cast(
    build: Any, x: Any, like: Any = None, *, to: int | None = None, saturate: int = 1, round_mode: str = "up"
) -> Any:
    if to is None:
        return build.call(cast_like, x, like)
    return build.call(cast_to, x, dtype=dtype_of(to))


def cast_to(x: Tensor, *, dtype: torch.dtype) -> Tensor:
    return x.to(dtype)


def cast_like(x: Tensor, like: Tensor) -> Tensor:
    return x.to(like.dtype)


@op("Dropout", since=12)
def dropout(x: Tensor, ratio: Any = None, training: Any = None, *, outputs: int, seed: int = 0) -> Any:
    """Of a model that is used: nothing."""
    return (x, torch.ones_like(x, dtype=torch.bool)) if outputs > 1 else x


op("Dropout", since=1)(lambda x, *, outputs, ratio=0.5, is_test=1, consumed_inputs=(): dropout(x, outputs=outputs))
