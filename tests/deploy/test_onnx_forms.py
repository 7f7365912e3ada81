"""ONNX forms over all conformance cases: ONNX Runtime gives what the reference gives, or the form refuses the case."""

# ruff: noqa: E402, the packages may be absent

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

onnx = pytest.importorskip("onnx", reason="needs the package onnx (extra 'onnx')")
pytest.importorskip("onnxruntime", reason="needs the package onnxruntime")

import rtaccel as rt
from rtaccel.core.registry import Case, operator
from rtaccel.core.stage import Value
from rtaccel.deploy.onnx.registry import forms
from rtaccel.deploy.onnx.writer import ML, OPSET, Writer, onnx_type
from tests.support.onnx_peer import run


def graph_of(case: Case) -> Any:
    """The one stage as a model, with the values that it reads and writes as they are stored."""
    stage, w = case.stage, Writer(onnx)

    def info(name: str, value: Value) -> Any:
        return onnx.helper.make_tensor_value_info(name, onnx_type(value.dtype), ["batch", *value.shape])

    given = []
    for i, value in enumerate(stage.inputs):
        if value in stage.inputs[:i]:
            continue
        given.append(info(w.name(f"in_{i}"), value))
        w.put_stored(value, f"in_{i}")
    w.stage = stage
    forms()[stage.op](w, stage)
    made = [info(w.stored(value), value) for value in stage.outputs]
    graph = onnx.helper.make_graph(w.nodes, "stage", given, made, w.constants)
    sets = [onnx.helper.make_opsetid("", OPSET), onnx.helper.make_opsetid(ML, 3)]
    model = onnx.helper.make_model(graph, opset_imports=sets)
    model.ir_version = 10
    return model


def check(case: Case, seed: int) -> None:
    """Raises AssertionError where the form is not what the reference gives, and UnsupportedProblem where it is refused."""
    model = graph_of(case)
    onnx.checker.check_model(model, full_check=True)
    stage, inputs = case.stage, case.make(seed)
    want = operator(stage.op).reference(stage, *inputs)
    if not all(t.double().isfinite().all() for t in (*inputs, *want)):
        return  # ONNX Runtime has another way with a NaN
    feeds = {f"in_{stage.inputs.index(value)}": t for value, t in zip(stage.inputs, inputs)}
    for value, a, b in zip(stage.outputs, run(model, feeds, optimized=False), want):
        assert tuple(a.shape) == tuple(b.shape)
        off, most = distance(torch.from_numpy(np.asarray(a)), b), bound(case, value)
        assert off <= most, f"{value.name}: {off:.2g}, where {most:.2g} is the limit; {stage.attrs}"


def distance(got: Tensor, want: Tensor) -> float:
    """Of int8 in steps; else the largest difference over the largest number."""
    if not want.numel():
        return 0.0
    off = (got.double() - want.double()).abs().max().item()
    return off if want.dtype == torch.int8 else off / max(want.double().abs().max().item(), 1e-30)


def bound(case: Case, value: Value) -> float:
    """Float32 rounds elsewhere, which may move an int8 by a step. With a static scale the bias is int32 there, and states of
    quantized recurrent layers are real numbers."""
    static = any(given.quant is not None for given in case.stage.inputs)
    states = "hidden" in case.stage.attrs and case.stage.weight_format.value != "float32"
    if value.dtype == "int8":
        return 8.0 if states else 1.0
    return 0.1 if states else 1e-3 if static else 1e-5


def untold(case: Case) -> bool:
    """What NumPy, and so the peer's own arrays, cannot hold; nearest neighbors of points half way, where a last bit decides."""
    stage = case.stage
    halves = any(value.dtype == "bfloat16" for value in (*stage.inputs, *stage.outputs))
    return halves or (stage.op == "grid_sample" and stage.attrs["mode"] == 1)


@pytest.mark.parametrize("name", sorted(forms()))
def test_all_conformance_cases(name: str) -> None:
    held, wrong = 0, []
    for number, case in enumerate(operator(name).cases()):
        if untold(case):
            continue
        try:
            check(case, number)
            held += 1
        except rt.UnsupportedProblem:  # by the form: nothing else here raises it
            continue
        except Exception as error:  # whatever it is, it is a fault of this case
            wrong.append(f"{case.id}: {type(error).__name__} {str(error)[:300]}")
    assert held and not wrong, "\n".join([f"{len(wrong)} cases", *wrong[:20]])


WHOLE = ("conv", "gru", "lstm", "rnn_relu", "rnn_tanh", "scan")
APART = {
    "a form that a plan alone has",
    "keeps its past inside",
    "is a step of a stream",
    "float8",
    "int8 with a scale per row",
}
"""What is refused of these: nothing that the shapes of a layer say."""


@pytest.mark.parametrize("name", WHOLE)
def test_every_shape_has_a_form(name: str) -> None:
    refused = []
    for case in operator(name).cases():
        try:
            graph_of(case)
        except rt.UnsupportedProblem as error:
            if not any(words in str(error) for words in APART):
                refused.append(f"{case.id}: {error}")
    assert not refused, "\n".join(refused[:20])


EXACT = ("integer", "take", "order", "scan")
"""Operators of which every number is told: whole ones, elements that are moved, and sums in float64. With NaN and infinities,
but in `order`, where a NaN comes where the runtime puts it."""


@pytest.mark.parametrize("name", EXACT)
def test_every_number(name: str) -> None:
    held, wrong = 0, []
    for number, case in enumerate(operator(name).cases()):
        try:
            model = graph_of(case)
        except rt.UnsupportedProblem:  # a step of a stream
            continue
        inputs = case.make(number)
        if name == "order":
            inputs = tuple(x.nan_to_num(7.5) if x.is_floating_point() else x for x in inputs)
        want = operator(name).reference(case.stage, *inputs)
        got = run(model, {f"in_{i}": x for i, x in enumerate(inputs)}, optimized=False)
        for a, b in zip(got, want, strict=True):
            found = torch.from_numpy(np.asarray(a))
            close = torch.isclose(found.double(), b.double(), rtol=2.0**-22, atol=1e-30, equal_nan=True)
            same = (close if b.is_floating_point() else found == b).all()
            if found.dtype != b.dtype or found.shape != b.shape or not bool(same):
                wrong.append(case.id)
        held += 1
    assert held and not wrong, "\n".join([f"{len(wrong)} cases", *wrong[:20]])
