"""Recurrences: ONNX's Scan, with a step of its own graph, and CumSum for running sums."""

from __future__ import annotations

from typing import Any

import numpy as np

from rtaccel.core.stage import Stage
from rtaccel.deploy.onnx.forms.chosen import placed
from rtaccel.deploy.onnx.registry import form
from rtaccel.deploy.onnx.writer import Writer
from rtaccel.kernels.linear_scan import contract
from rtaccel.kernels.scan import contract as scan_contract


@form("linear_scan")
def linear_scan(w: Writer, stage: Stage) -> None:
    """h begins as zeros, and each step gives h = a * h + b; what it gives is brought into the order of y."""
    dims, places = contract.geometry(stage)
    inputs, y = iter(stage.inputs), stage.outputs[0]
    if contract.is_stream(stage):
        w.refuse("is a step of a stream")
    if contract.is_wide(stage):
        w.refuse("has a state in float64")
    if "a" in stage.tensors:
        flat = stage.tensors["a"].float().reshape(-1)
        a = w.strided(w.constant(flat, f"{stage.name}.a"), flat.numel(), dims, places[0], lead=False)
    else:
        value = next(inputs)
        a = w.strided(w.real(value), value.steps * value.width, dims, places[0])
    value = next(inputs)
    b = w.whole(w.strided(w.real(value), value.steps * value.width, dims, places[1]), dims)
    a = w.node("Expand", a, w.node("Shape", b))
    first = w.node("Gather", b, w.constant(np.int64(0), "index"), axis=len(dims))
    begin = w.node("ConstantOfShape", w.node("Shape", first))
    helper = w.onnx.helper
    body = helper.make_graph(
        [
            helper.make_node("Mul", ["a", "h"], ["ah"]),
            helper.make_node("Add", ["ah", "b"], ["next"]),
            helper.make_node("Identity", ["next"], ["y"]),
        ],
        "step",
        [helper.make_tensor_value_info(name, 1, None) for name in ("h", "a", "b")],
        [helper.make_tensor_value_info(name, 1, None) for name in ("next", "y")],
    )
    axis = len(dims)
    _, made = w.node(
        "Scan",
        begin,
        a,
        b,
        outputs=2,
        body=body,
        num_scan_inputs=2,
        scan_input_axes=[axis, axis],
        scan_output_axes=[axis],
    )
    w.put(y, w.as_value(placed(w, made, dims, places[2]), y))


DOUBLE, INT64 = 11, 7
_STEPS = {"prod": "Mul", "max": "Max", "min": "Min"}
_WHOLE = {
    "sum": "ReduceSum",
    "prod": "ReduceProd",
    "max": "ReduceMax",
    "min": "ReduceMin",
    "logsumexp": "ReduceLogSumExp",
}


@form("scan")
def scan(w: Writer, stage: Stage) -> None:
    """Joined in float64, as here."""
    kind, last, x, y = stage.attrs["kind"], stage.attrs["last"], stage.inputs[0], stage.outputs[0]
    if scan_contract.is_stream(stage):
        w.refuse("is a step of a stream")
    scan_contract.lower(stage)  # what it refuses is refused here too
    dims, axis = tuple(stage.attrs["dims"]), len(stage.attrs["dims"])
    place, target = (tuple(p) for p in stage.attrs["places"])
    seen = w.whole(w.strided(w.real(x), x.steps * x.width, dims, place), dims)
    wide = seen if x.dtype == "int64" else w.node("Cast", seen, to=DOUBLE)
    one_by_one = kind in _STEPS  # ReduceProd of int64 does not wrap around, and ReduceMax leaves a NaN out
    if one_by_one or (kind == "logsumexp" and not last):
        made = _joined(w, wide, kind, dims[-1], axis, INT64 if x.dtype == "int64" else DOUBLE)
        made = (
            w.node("Gather", made, w.constant(np.array([dims[-1] - 1], np.int64), "index"), axis=axis) if last else made
        )
    elif last:
        made = w.node(_WHOLE[kind], wide, w.constant(np.array([axis], np.int64), "axes"), keepdims=1)
    else:
        made = w.node("CumSum", wide, w.constant(np.int64(axis), "axis"))
    out, target = ((*dims[:-1], 1), (*target, 0)) if last else (dims, target)
    made = made if x.dtype == "int64" else w.node("Cast", made, to=1)
    w.put(y, w.as_value(placed(w, made, out, target), y))


def _joined(w: Writer, x: str, kind: str, count: int, axis: int, element: int) -> str:
    """Each of `count` elements joined with all before it; the first one begins."""
    if count == 1:
        return x
    helper = w.onnx.helper
    begin = w.node("Gather", x, w.constant(np.int64(0), "index"), axis=axis)
    rest = w.node(
        "Slice", x, *(w.constant(np.array([n], np.int64), "slice") for n in (1, np.iinfo(np.int64).max, axis))
    )
    step = _logarithm_of_sum(w) if kind == "logsumexp" else [helper.make_node(_STEPS[kind], ["h", "x"], ["next"])]
    body = helper.make_graph(
        [*step, helper.make_node("Identity", ["next"], ["y"])],
        "step",
        [helper.make_tensor_value_info(name, element, None) for name in ("h", "x")],
        [helper.make_tensor_value_info(name, element, None) for name in ("next", "y")],
    )
    _, later = w.node(
        "Scan", begin, rest, outputs=2, body=body, num_scan_inputs=1, scan_input_axes=[axis], scan_output_axes=[axis]
    )
    first = w.node("Unsqueeze", begin, w.constant(np.array([axis], np.int64), "axes"))
    return str(w.node("Concat", first, later, axis=axis))


def _logarithm_of_sum(w: Writer) -> list[Any]:
    """next = log(exp(h) + exp(x)), as max + log(1 + exp(-|h - x|)). Equal ones apart: they may be infinite."""
    one, two = w.constant(np.float64(1.0), "number"), w.constant(np.log(np.float64(2.0)), "number")
    calls = (
        ("Sub", ("h", "x"), "off"), ("Abs", ("off",), "far"), ("Neg", ("far",), "less"), ("Exp", ("less",), "part"),
        ("Add", ("part", one), "sum"), ("Log", ("sum",), "more"), ("Equal", ("h", "x"), "same"),
        ("Where", ("same", two, "more"), "added"), ("Max", ("h", "x"), "larger"), ("Add", ("larger", "added"), "next"),
    )  # fmt: skip
    return [w.onnx.helper.make_node(kind, list(given), [made]) for kind, given, made in calls]
