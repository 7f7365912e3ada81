"""Linear recurrences: ONNX's Scan, with a step of its own graph."""

from __future__ import annotations

import numpy as np

from rtaccel.core.stage import Stage
from rtaccel.deploy.onnx.forms.movement import picked
from rtaccel.deploy.onnx.registry import form
from rtaccel.deploy.onnx.writer import Writer
from rtaccel.kernels._common.strides import elements
from rtaccel.kernels.linear_scan import contract


@form("linear_scan")
def linear_scan(w: Writer, stage: Stage) -> None:
    """h begins as zeros, and each step gives h = a * h + b; what it gives is brought into the order of y."""
    dims, places = contract.geometry(stage)
    inputs, y = iter(stage.inputs), stage.outputs[0]
    if contract.is_stream(stage):
        w.refuse("is a step of a stream")
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
    index = np.empty(y.steps * y.width, np.int64)
    index[elements(dims, places[2]).reshape(-1)] = np.arange(len(index))
    w.put(y, w.as_value(picked(w, made, len(index), index), y))
