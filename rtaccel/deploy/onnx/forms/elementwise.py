"""Stages that treat elements alike: expressions, joins of two values, positions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rtaccel.core.stage import Stage
from rtaccel.deploy.onnx.functions import activated, function
from rtaccel.deploy.onnx.registry import form
from rtaccel.deploy.onnx.writer import Writer
from rtaccel.kernels._expression.operator import instructions


@form("expression", "strided_expression")
def expression(w: Writer, stage: Stage) -> None:
    y = stage.outputs[0]
    given: dict[str, list[str]] = {"x": [], "c": [], "t": []}
    dims = stage.attrs.get("dims")
    places = [tuple(p) for p in stage.attrs.get("places", ())]
    for i, value in enumerate(stage.inputs):
        x = w.real(value)
        x = w.node("Cast", x, to=1) if value.dtype == "int64" else x
        given["x"].append(x if dims is None else w.strided(x, value.steps * value.width, dims, places[i]))
    for i in range(len(stage.tensors)):
        tensor = stage.tensors[f"c{i}"].float().reshape(-1)
        constant = w.constant(tensor, f"{stage.name}.c{i}")
        if dims is not None:
            constant = w.strided(constant, tensor.numel(), dims, places[len(stage.inputs) + i], lead=False)
        given["c"].append(constant)
    for step in instructions(stage):
        operands = [w.number(o) if isinstance(o, float) else given[o[0]][o[1]] for o in step.operands]
        given["t"].append(function(w, step.name, operands, step.parameter))
    made = given["t"][-1]
    if dims is not None:
        made = w.whole(made, dims) if narrow(stage, dims, places) else made
        made = w.as_value(made, y)
    elif not _reads_samples(stage):
        sizes = w.node(
            "Concat", w.node("Shape", given["x"][0], end=1), w.constant(np.array(y.shape, np.int64), "shape"), axis=0
        )
        made = w.node("Expand", made, sizes)
    elif all(v.width != y.width for v in stage.inputs):
        made = w.node("Expand", made, w.constant(np.array([1] * (len(y.shape)) + [y.width], np.int64), "shape"))
    w.put(y, made)


def _reads_samples(stage: Stage) -> bool:
    """Whether the result depends on a computed value, and not on constants alone."""
    found: list[bool] = []
    for step in instructions(stage):
        places = [o for o in step.operands if not isinstance(o, float)]
        found.append(any(kind == "x" or (kind == "t" and found[at]) for kind, at in places))
    return found[-1]


def narrow(stage: Stage, dims: Sequence[int], places: Sequence[tuple[int, ...]]) -> bool:
    """Whether no operand has every dimension, so that the result is to be repeated."""
    return not any(all(s != 0 or n == 1 for s, n in zip(place[1:], dims)) for place in places[: len(stage.inputs)])


@form("pointwise")
def pointwise(w: Writer, stage: Stage) -> None:
    t = w.real(stage.inputs[0])
    if "scale" in stage.tensors:
        t = w.node("Mul", t, w.constant(stage.tensors["scale"], f"{stage.name}.scale"))
        t = w.node("Add", t, w.constant(stage.tensors["shift"], f"{stage.name}.shift"))
    if len(stage.inputs) > 1:
        t = function(w, str(stage.attrs.get("join", "add")), [t, w.real(stage.inputs[1])])
    w.put(stage.outputs[0], activated(w, stage, t))


@form("cast")
def cast(w: Writer, stage: Stage) -> None:
    x, y = stage.inputs[0], stage.outputs[0]
    made = w.node("Cast", w.stored(x), to={"float32": 1, "float16": 10, "bfloat16": 16}[y.dtype])
    w.put_stored(y, w.as_value(made, y) if x.shape != y.shape else made)


@form("position")
def position(w: Writer, stage: Stage) -> None:
    if stage.attrs.get("stream"):
        w.refuse("keeps its past inside (a stream)")
    table = stage.tensors["table"]
    w.put(stage.outputs[0], w.node("Add", w.real(stage.inputs[0]), w.constant(table, f"{stage.name}.table")))
