"""Activations and the functions of expressions as nodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from rtaccel.core.stage import Stage
    from rtaccel.deploy.onnx.writer import Writer

_ACTIVATIONS: dict[str, Callable[[Writer, str, float], str]] = {
    "none": lambda w, t, p: t,
    "relu": lambda w, t, p: w.node("Relu", t),
    "leaky_relu": lambda w, t, p: w.node("LeakyRelu", t, alpha=p),
    "elu": lambda w, t, p: w.node("Elu", t, alpha=p),
    "gelu": lambda w, t, p: w.node("Gelu", t),
    "gelu_tanh": lambda w, t, p: w.node("Gelu", t, approximate="tanh"),
    "silu": lambda w, t, p: w.node("Mul", t, w.node("Sigmoid", t)),
    "tanh": lambda w, t, p: w.node("Tanh", t),
    "sigmoid": lambda w, t, p: w.node("Sigmoid", t),
    "clipped_relu": lambda w, t, p: w.node("Clip", t, w.number(0.0), w.number(p)),
    "hardswish": lambda w, t, p: w.node("HardSwish", t),
    "hardsigmoid": lambda w, t, p: w.node("HardSigmoid", t, alpha=1 / 6, beta=0.5),
    "softplus": lambda w, t, p: w.node("Softplus", t),
    "mish": lambda w, t, p: w.node("Mish", t),
    "selu": lambda w, t, p: w.node("Selu", t),
}

_NODES = {
    "neg": "Neg", "abs": "Abs", "sign": "Sign", "floor": "Floor", "ceil": "Ceil", "round": "Round",
    "reciprocal": "Reciprocal", "sqrt": "Sqrt", "exp": "Exp", "log": "Log", "erf": "Erf", "tan": "Tan", "asin": "Asin",
    "acos": "Acos", "atan": "Atan", "sinh": "Sinh", "cosh": "Cosh", "asinh": "Asinh", "acosh": "Acosh",
    "atanh": "Atanh", "sin": "Sin", "cos": "Cos", "add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div",
    "maximum": "Max", "minimum": "Min", "pow": "Pow",
}  # fmt: skip
"""Functions that are one node."""

_TESTS = {"lt": "Less", "le": "LessOrEqual", "gt": "Greater", "ge": "GreaterOrEqual", "eq": "Equal"}
_LOGIC = {"logical_and": "And", "logical_or": "Or", "logical_xor": "Xor"}


def truth(w: Writer, x: str) -> str:
    """Of a number that is 1 or 0, as a truth value."""
    return w.node("Cast", x, to=9)


def real(w: Writer, x: str) -> str:
    return w.node("Cast", x, to=1)


def _not(w: Writer, x: str) -> str:
    return w.node("Not", x)


_OTHERS: dict[str, Callable[..., str]] = {
    "copy": lambda w, a: a,
    "rsub": lambda w, a, b: w.node("Sub", b, a),
    "rdiv": lambda w, a, b: w.node("Div", b, a),
    "trunc": lambda w, a: w.node("Mul", w.node("Sign", a), w.node("Floor", w.node("Abs", a))),
    "rsqrt": lambda w, a: w.node("Reciprocal", w.node("Sqrt", a)),
    "expm1": lambda w, a: w.node("Sub", w.node("Exp", a), w.number(1.0)),
    "log1p": lambda w, a: w.node("Log", w.node("Add", a, w.number(1.0))),
    "log2": lambda w, a: w.node("Mul", w.node("Log", a), w.number(1 / np.log(2.0))),
    "log10": lambda w, a: w.node("Mul", w.node("Log", a), w.number(1 / np.log(10.0))),
    "erfc": lambda w, a: w.node("Sub", w.number(1.0), w.node("Erf", a)),
    "isnan": lambda w, a: real(w, w.node("IsNaN", a)),
    "isinf": lambda w, a: real(w, w.node("IsInf", a)),
    "truth": lambda w, a: real(w, truth(w, a)),
    "logical_not": lambda w, a: real(w, _not(w, truth(w, a))),
    "ne": lambda w, a, b: real(w, _not(w, w.node("Equal", a, b))),
    "where": lambda w, c, a, b: w.node("Where", truth(w, c), a, b),
    "prelu": lambda w, a, b: w.node("Where", w.node("Greater", a, w.number(0.0)), a, w.node("Mul", a, b)),
    "hypot": lambda w, a, b: w.node("Sqrt", w.node("Add", w.node("Mul", a, a), w.node("Mul", b, b))),
    "fmod": lambda w, a, b: w.node("Mod", a, b, fmod=1),
    "remainder": lambda w, a, b: w.node("Sub", a, w.node("Mul", b, w.node("Floor", w.node("Div", a, b)))),
}


def activated(w: Writer, stage: Stage, t: str) -> str:
    """The activation at the end of a stage."""
    name = str(stage.attrs.get("activation", "none"))
    return function(w, name, [t], float(stage.attrs.get("activation_parameter", 0.0)))


def function(w: Writer, name: str, operands: list[str], parameter: float = 0.0) -> str:
    """f(operands). Refuses, by name, what has no form."""
    if name in _ACTIVATIONS:
        return _ACTIVATIONS[name](w, operands[0], parameter)
    if name in _NODES:
        return w.node(_NODES[name], *operands)
    if name in _TESTS:
        return real(w, w.node(_TESTS[name], *operands))
    if name in _LOGIC:
        return real(w, w.node(_LOGIC[name], *(truth(w, x) for x in operands)))
    if name in _OTHERS:
        return _OTHERS[name](w, *operands)
    return w.refuse(f"computes {name!r}, for which ONNX has no operator")
