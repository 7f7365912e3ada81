"""Whole numbers: each function of the operator `integer` as nodes on int64."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from rtaccel.core.stage import Stage, Value
from rtaccel.deploy.onnx.forms.elementwise import narrow
from rtaccel.deploy.onnx.registry import form
from rtaccel.deploy.onnx.writer import Writer, onnx_type
from rtaccel.kernels.integer import contract, functions

INT64 = 7


@form("integer")
def integer(w: Writer, stage: Stage) -> None:
    """A division by zero is what the runtime makes of it."""
    program, y = contract.parse(stage), stage.outputs[0]
    dims, places = contract.places(stage)
    given: dict[str, list[str]] = {"x": [], "c": [], "t": []}
    for value, place in zip(stage.inputs, places):
        given["x"].append(w.strided(whole(w, value), value.steps * value.width, dims, place))
    for constant, place in zip(contract.constants(stage), places[len(stage.inputs) :]):
        name = w.constant(constant.reshape(-1).long(), f"{stage.name}.c")
        given["c"].append(w.strided(name, constant.numel(), dims, place, lead=False))
    for name, words in program:
        operands = [given[o[0]][int(o[1:])] if o[0] in given else number(w, int(o)) for o in words]
        given["t"].append(_FUNCTIONS[name](w, *operands))
    made = given["t"][-1]
    made = w.whole(made, dims) if narrow(stage, dims, places) else made
    made = w.as_value(made, y)
    w.put(y, made if y.dtype == "int64" else w.node("Cast", made, to=onnx_type(y.dtype)))


def whole(w: Writer, value: Value) -> str:
    """A value as int64: float32 toward zero, and the lowest number for what int64 does not hold."""
    x = w.real(value)
    if value.dtype == "int64":
        return x
    if value.dtype != "float32":
        return w.node("Cast", x, to=INT64)
    above = w.node("GreaterOrEqual", x, w.number(-(2.0**63)))
    inside = w.node("And", above, w.node("Less", x, w.number(2.0**63)))
    cut = w.node("Cast", w.node("Where", inside, x, w.number(0.0)), to=INT64)
    return w.node("Where", inside, cut, number(w, functions.LOWEST))


def number(w: Writer, value: int) -> str:
    return w.constant(np.int64(value), "number")


Make = Callable[..., str]


def _same(kind: str, **attrs: int) -> Make:
    return lambda w, *operands: w.node(kind, *operands, **attrs)


def _truth(w: Writer, a: str) -> str:
    return w.node("Not", w.node("Equal", a, number(w, 0)))


def _counted(w: Writer, truth: str) -> str:
    return w.node("Cast", truth, to=INT64)


def _compared(kind: str) -> Make:
    return lambda w, a, b: _counted(w, w.node(kind, a, b))


def _of_truths(kind: str) -> Make:
    return lambda w, a, b: _counted(w, w.node(kind, _truth(w, a), _truth(w, b)))


def _floored(w: Writer, a: str, b: str) -> str:
    return w.node("Div", w.node("Sub", a, w.node("Mod", a, b)), b)


_FUNCTIONS: dict[str, Make] = {
    "copy": _same("Identity"), "neg": _same("Neg"), "abs": _same("Abs"), "sign": _same("Sign"),
    "bitwise_not": _same("BitwiseNot"), "logical_not": lambda w, a: _counted(w, w.node("Equal", a, number(w, 0))),
    "truth": lambda w, a: _counted(w, _truth(w, a)),
    "wrap32": lambda w, a: w.node("Cast", w.node("Cast", a, to=onnx_type("int32")), to=INT64),
    "add": _same("Add"), "sub": _same("Sub"), "mul": _same("Mul"),
    "floor_divide": _floored, "trunc_divide": _same("Div"), "remainder": _same("Mod"), "fmod": _same("Mod", fmod=1),
    "minimum": _same("Min"), "maximum": _same("Max"),
    "lt": _compared("Less"), "le": _compared("LessOrEqual"), "gt": _compared("Greater"),
    "ge": _compared("GreaterOrEqual"), "eq": _compared("Equal"),
    "ne": lambda w, a, b: _counted(w, w.node("Not", w.node("Equal", a, b))),
    "bitwise_and": _same("BitwiseAnd"), "bitwise_or": _same("BitwiseOr"), "bitwise_xor": _same("BitwiseXor"),
    "logical_and": _of_truths("And"), "logical_or": _of_truths("Or"), "logical_xor": _of_truths("Xor"),
    "where": lambda w, condition, yes, no: w.node("Where", _truth(w, condition), yes, no),
}  # fmt: skip
