"""Forms that generated graphs do not have: recurrent layers in all directions, conditions, loops, older opsets, casts."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("onnx", reason="needs the package onnx (extra 'onnx')")
pytest.importorskip("onnxruntime", reason="needs the package onnxruntime")

from onnx import TensorProto, helper, numpy_helper

import rtaccel as rt
from tests.support.onnx_peer import run, worst

FLOAT = TensorProto.FLOAT


def model_of(
    nodes: list[Any], inputs: dict[str, Any], outputs: list[str], weights: dict[str, Any] | None = None, opset: int = 21
) -> Any:
    """inputs: name -> (type, shape)."""
    given = [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()]
    made = [helper.make_value_info(name, helper.make_tensor_type_proto(FLOAT, None)) for name in outputs]
    stored = [numpy_helper.from_array(np.asarray(v), name) for name, v in (weights or {}).items()]
    graph = helper.make_graph(nodes, "g", given, made, stored)
    del graph.output[:]
    graph.output.extend(helper.make_tensor_value_info(name, FLOAT, []) for name in outputs)
    for entry in graph.output:
        entry.type.tensor_type.shape.Clear()
        entry.ClearField("type")
        entry.type.tensor_type.elem_type = FLOAT
        entry.type.tensor_type.shape.dim.add()
    made_model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    made_model.ir_version = 10 if opset > 18 else 8
    return made_model


def normal(*shape: int, scale: float = 1.0, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed + sum(shape)).standard_normal(shape) * scale).astype(np.float32)


CELLS = {"LSTM": 4, "GRU": 3, "RNN": 1}


@pytest.mark.parametrize(
    ("kind", "direction", "biased", "states", "before"),
    [
        (kind, direction, biased, states, before)
        for kind, direction, biased, states in itertools.product(
            CELLS, ("forward", "reverse", "bidirectional"), (True, False), (True, False)
        )
        for before in ((0, 1) if kind == "GRU" else (0,))
    ],
)
def test_recurrent(kind: str, direction: str, biased: bool, states: bool, before: int) -> None:
    k, hidden, steps, batch = 5, 4, 6, 3
    d = 2 if direction == "bidirectional" else 1
    weights: dict[str, np.ndarray] = {
        "W": normal(d, CELLS[kind] * hidden, k, scale=0.5), "R": normal(d, CELLS[kind] * hidden, hidden, scale=0.5, seed=1),
    }  # fmt: skip
    names = ["x", "W", "R", "", ""]
    if biased:
        weights["B"] = normal(d, 2 * CELLS[kind] * hidden, seed=2)
        names[3] = "B"
    inputs: dict[str, Any] = {"x": (FLOAT, [steps, "batch", k])}
    if states:
        names.append("h")
        inputs["h"] = (FLOAT, [d, "batch", hidden])
        if kind == "LSTM":
            names.append("c")
            inputs["c"] = (FLOAT, [d, "batch", hidden])
    outputs = ["y", "yh", "yc"][: 3 if kind == "LSTM" else 2]
    attrs = {"linear_before_reset": before} if kind == "GRU" else {}
    node = helper.make_node(kind, names, outputs, "cell", hidden_size=hidden, direction=direction, **attrs)
    model = model_of([node], inputs, outputs, weights, opset=14)
    for entry, rank in zip(model.graph.output, (4, 3, 3)):
        entry.type.tensor_type.shape.dim.extend(entry.type.tensor_type.shape.dim[:1] * (rank - 1))
    given = tuple(
        torch.from_numpy(normal(*(batch if n == "batch" else n for n in shape), seed=7)) for _, shape in inputs.values()
    )
    module = rt.from_onnx(model)
    wanted = run(model, given)
    with torch.no_grad():
        assert worst(module(*given), wanted) < 1e-5
    if biased != states:
        return  # compiling takes most of the time
    fast = rt.compile(module, given)
    assert worst(fast(*given), wanted) < 1e-5
    assert fast.native[0] == fast.native[1], fast.explain(measure=False)


@pytest.mark.parametrize(
    ("attrs", "why"),
    [
        ({"clip": 3.0}, r"LSTM \(node 'cell'\) clips its gates"),
        ({"activations": ["Relu", "Tanh", "Tanh"]}, r"LSTM \(node 'cell'\) has activations Relu"),
        ({"input_forget": 1}, r"LSTM \(node 'cell'\) couples"),
    ],
)
def test_recurrent_forms_that_are_refused(attrs: dict[str, Any], why: str) -> None:
    weights = {"W": normal(1, 16, 5), "R": normal(1, 16, 4)}
    node = helper.make_node("LSTM", ["x", "W", "R"], ["y"], "cell", hidden_size=4, **attrs)
    with pytest.raises(rt.UnsupportedProblem, match=why):
        rt.from_onnx(model_of([node], {"x": (FLOAT, [6, 1, 5])}, ["y"], weights, opset=14))


def branch(kind: str, source: str, name: str) -> Any:
    return helper.make_graph(
        [helper.make_node(kind, [source], [name])], name, [], [helper.make_tensor_value_info(name, FLOAT, ["b", 3])]
    )


def test_if_by_shape_by_constant_and_by_value() -> None:
    x = torch.randn(2, 3)
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]), helper.make_node("Gather", ["s", "one"], ["n"]),
        helper.make_node("Greater", ["n", "two"], ["wide"]),
        helper.make_node("If", ["wide"], ["y"], "if", then_branch=branch("Relu", "x", "a"), else_branch=branch("Neg", "x", "b")),
    ]  # fmt: skip
    constants = {"one": np.int64(1), "two": np.int64(2), "yes": np.array(True)}
    module = rt.from_onnx(model_of(nodes, {"x": (FLOAT, ["b", 3])}, ["y"], constants))
    fast = rt.compile(module, (x,))
    assert torch.equal(fast(x), x.relu()) and fast.native == (1, 1)
    taken = helper.make_node(
        "If", ["yes"], ["y"], then_branch=branch("Relu", "x", "a"), else_branch=branch("Missing", "x", "b")
    )
    with pytest.raises(rt.FormatError, match="Missing"):
        rt.from_onnx(model_of([taken], {"x": (FLOAT, ["b", 3])}, ["y"], constants))
    by_value = helper.make_node(
        "If", ["go"], ["y"], then_branch=branch("Relu", "x", "a"), else_branch=branch("Neg", "x", "b")
    )
    model = model_of([by_value], {"x": (FLOAT, ["b", 3]), "go": (TensorProto.BOOL, [])}, ["y"])
    module = rt.from_onnx(model)
    assert torch.equal(module(x, torch.tensor(True)), x.relu()) and torch.equal(module(x, torch.tensor(False)), -x)
    fast = rt.compile(rt.from_onnx(model, fixed={"go": False}), (x,))
    assert torch.equal(fast(x), -x)


def test_loop_with_a_known_count_and_a_computed_one() -> None:
    body = helper.make_graph(
        [helper.make_node("Add", ["sum", "x"], ["more"]), helper.make_node("Identity", ["go"], ["goes"]),
         helper.make_node("Identity", ["more"], ["seen"])],
        "body",
        [helper.make_tensor_value_info("i", TensorProto.INT64, []), helper.make_tensor_value_info("go", TensorProto.BOOL, []),
         helper.make_tensor_value_info("sum", FLOAT, ["b", 3])],
        [helper.make_tensor_value_info("goes", TensorProto.BOOL, []), helper.make_tensor_value_info("more", FLOAT, ["b", 3]),
         helper.make_tensor_value_info("seen", FLOAT, ["b", 3])],
    )  # fmt: skip
    node = helper.make_node("Loop", ["count", "", "x"], ["y", "all"], "loop", body=body)
    model = model_of([node], {"x": (FLOAT, ["b", 3])}, ["y"], {"count": np.int64(4)})
    x = torch.randn(2, 3)
    assert torch.allclose(rt.compile(rt.from_onnx(model), (x,))(x), 5 * x)
    computed = model_of([node], {"x": (FLOAT, ["b", 3]), "count": (TensorProto.INT64, [])}, ["y"])
    with pytest.raises(rt.UnsupportedProblem, match=r"Loop \(node 'loop'\) has a number of rounds that is computed"):
        rt.from_onnx(computed)
    assert torch.allclose(rt.from_onnx(computed, fixed={"count": 2})(x), 3 * x)


@pytest.mark.parametrize("opset", [7, 8, 9, 11, 13])
def test_softmax_before_opset_13_is_over_all_that_follows(opset: int) -> None:
    model = model_of(
        [helper.make_node("Softmax", ["x"], ["y"], axis=1)], {"x": (FLOAT, ["b", 3, 4])}, ["y"], opset=opset
    )
    model.graph.output[0].type.tensor_type.shape.dim.extend(model.graph.output[0].type.tensor_type.shape.dim[:1] * 2)
    x = torch.randn(2, 3, 4)
    wanted = x.softmax(1) if opset >= 13 else x.flatten(1).softmax(1).reshape(x.shape)
    assert torch.allclose(rt.from_onnx(model)(x), wanted, atol=1e-6)


def test_upsample_with_scales_as_an_attribute() -> None:
    node = helper.make_node("Upsample", ["x"], ["y"], scales=[1.0, 1.0, 2.0, 2.0], mode="nearest")
    model = model_of([node], {"x": (FLOAT, ["b", 2, 3, 4])}, ["y"], opset=7)
    x = torch.randn(2, 2, 3, 4)
    assert torch.equal(rt.from_onnx(model)(x), x.repeat_interleave(2, 2).repeat_interleave(2, 3))


def test_casts() -> None:
    for kind, dtype in ((TensorProto.INT64, torch.int64), (TensorProto.BOOL, torch.bool), (TensorProto.FLOAT16, torch.float16),
                        (TensorProto.DOUBLE, torch.float64), (TensorProto.INT8, torch.int8)):  # fmt: skip
        nodes = [helper.make_node("Cast", ["x"], ["c"], to=kind), helper.make_node("CastLike", ["c", "x"], ["y"])]
        x = torch.tensor([[-2.5, 0.0, 1.75]])
        assert torch.equal(rt.from_onnx(model_of(nodes, {"x": (FLOAT, ["b", 3])}, ["y"]))(x), x.to(dtype).float())


def test_nan_and_infinity_go_where_onnx_runtime_has_them() -> None:
    kinds = ["Relu", "Sigmoid", "Tanh", "Exp", "Abs", "Sqrt", "Elu", "Softplus", "Clip", "Sign"]
    x = np.array([[np.nan, np.inf, -np.inf, 0.0, -0.0, 1e30]], np.float32)
    for kind in kinds:
        more = ["low", "high"] if kind == "Clip" else []
        constants = {"low": np.float32(-1), "high": np.float32(2)} if more else {}
        model = model_of([helper.make_node(kind, ["x", *more], ["y"])], {"x": (FLOAT, ["b", 6])}, ["y"], constants)
        model.graph.output[0].type.tensor_type.shape.dim.add()
        wanted = run(model, {"x": x})[0]
        got = rt.from_onnx(model)(torch.from_numpy(x)).numpy()
        if kind != "Relu":  # ONNX Runtime's own Relu gives 0 for a NaN; max(x, 0) of the standard is NaN
            np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6, err_msg=kind)
        assert np.isnan(got[0, 0]) or not np.isnan(wanted[0, 0]), kind
