"""Forms in ONNX of single stages, with every case of the operator: ONNX Runtime gives what the reference gives."""

# ruff: noqa: E402, the packages may be absent

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

onnx = pytest.importorskip("onnx", reason="needs the package onnx (extra 'onnx')")
runtime = pytest.importorskip("onnxruntime", reason="needs the package onnxruntime")

from rtaccel.core.registry import Case, operator
from rtaccel.deploy.onnx.registry import forms
from rtaccel.deploy.onnx.writer import IR_VERSION, OPSET, Writer, onnx_type

OPERATORS = ("integer", "take", "order", "scan", "put", "fourier")
BY_THE_RUNTIME = {
    "order": "where a NaN comes",
    "put": "the larger one of a NaN and a number",
    "fourier": "0 times infinity",
}
"""What a form leaves to the runtime, by operator."""


def cases() -> Iterator[tuple[str, Case]]:
    for name in OPERATORS:
        for case in operator(name).cases():
            streams = bool(case.stage.attrs.get("stream", 0))
            running = case.stage.attrs.get("kind") == "logsumexp" and not case.stage.attrs["last"]
            if not streams and not running:
                yield name, case


def written(case: Case) -> Any:
    """A model of one stage."""
    w, stage = Writer(onnx), case.stage
    inputs = []
    for i, value in enumerate(stage.inputs):
        name = w.name(f"in{i}")
        w.put_stored(value, name)
        inputs.append(onnx.helper.make_tensor_value_info(name, onnx_type(value.dtype), ["batch", *value.shape]))
    w.stage = stage
    forms()[stage.op](w, stage)
    outputs = [
        onnx.helper.make_tensor_value_info(w.stored(value), onnx_type(value.dtype), ["batch", *value.shape])
        for value in stage.outputs
    ]
    graph = onnx.helper.make_graph(w.nodes, "stage", inputs, outputs, w.constants)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", OPSET)])
    model.ir_version = IR_VERSION
    onnx.checker.check_model(model, full_check=True)
    return model


@pytest.mark.parametrize("case", [pytest.param(c, id=f"{name}-{c.id}") for name, c in cases()])
def test_equal_reference(case: Case) -> None:
    stage = case.stage
    given = case.make(11)
    if stage.op in BY_THE_RUNTIME:
        given = tuple(x.nan_to_num(7.5, 9.5, -8.5) if x.is_floating_point() else x for x in given)
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    session = runtime.InferenceSession(written(case).SerializeToString(), options, providers=["CPUExecutionProvider"])
    want = operator(stage.op).reference(stage, *given)
    got = session.run(None, {f"in{i}": x.numpy() for i, x in enumerate(given)})
    assert len(got) == len(want)
    for g, t in zip(got, want):
        found = torch.from_numpy(g)
        assert found.dtype == t.dtype and found.shape == t.shape
        if stage.op in ("put", "fourier"):  # in float32, one after the other
            bound = operator(stage.op).tolerance(stage, *given)
            allowed = torch.as_tensor(bound.atol) * (stage.attrs["n"] if stage.op == "fourier" else 1)
            assert bool(((found.double() - t.double()).abs() <= allowed).all())
        elif t.is_floating_point():  # sums in float64 may be rounded apart once
            torch.testing.assert_close(found, t, rtol=2.0**-22, atol=1e-30, equal_nan=True)
        else:
            torch.testing.assert_close(found, t, rtol=0, atol=0)
