"""Files that are none, nodes without a form: typed errors that name all of them, and what to do."""

# ruff: noqa: E402, the packages may be absent

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

onnx = pytest.importorskip("onnx", reason="needs the package onnx (extra 'onnx')")

from onnx import TensorProto, helper, numpy_helper

import rtaccel as rt
from tests.convert.onnx.test_forms import FLOAT, model_of


def small(kind: str = "Relu") -> onnx.ModelProto:
    return model_of([helper.make_node(kind, ["x"], ["y"], "node")], {"x": (FLOAT, ["b", 3])}, ["y"])


@pytest.mark.parametrize("source", [None, 3, ["a"]])
def test_what_is_no_model(source: object) -> None:
    with pytest.raises(rt.FormatError, match=r"from_onnx: got \w+; expected a path"):
        rt.from_onnx(source)


def test_paths(tmp_path: Path) -> None:
    with pytest.raises(rt.FormatError, match="which is no file"):
        rt.from_onnx(tmp_path / "missing.onnx")
    with pytest.raises(rt.FormatError, match="which is no file"):
        rt.from_onnx(tmp_path)
    broken = tmp_path / "broken.onnx"
    data = small().SerializeToString()
    for content in (b"", b"no protobuf at all", data[: len(data) // 2]):
        broken.write_bytes(content)
        with pytest.raises(rt.FormatError):
            rt.from_onnx(broken)
    whole = tmp_path / "whole.onnx"
    whole.write_bytes(data)
    x = torch.randn(2, 3)
    for source in (whole, str(whole), data, small()):
        assert torch.equal(rt.from_onnx(source)(x), x.relu())


def test_a_graph_that_the_checker_refuses() -> None:
    model = small()
    model.graph.node[0].input[0] = "nothing"
    with pytest.raises(rt.FormatError, match=r"onnx\.checker passes"):
        rt.from_onnx(model)


def test_every_node_without_a_form_is_named() -> None:
    nodes = [
        helper.make_node("NonZero", ["x"], ["a"], "first"), helper.make_node("Unique", ["x"], ["b"], "second"),
        helper.make_node("Mystery", ["x"], ["c"], "third", domain="com.example"), helper.make_node("Relu", ["x"], ["y"]),
    ]  # fmt: skip
    model = model_of(nodes, {"x": (FLOAT, ["b", 3])}, ["y"])
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    with pytest.raises(rt.UnsupportedProblem) as caught:
        rt.from_onnx(model)
    for named in ("NonZero (node 'first')", "Unique (node 'second')", "com.example.Mystery (node 'third')"):
        assert named in str(caught.value)


def test_random_numbers_are_no_constants() -> None:
    nodes = [helper.make_node("RandomUniformLike", ["w"], ["r"], "dice"), helper.make_node("Add", ["x", "r"], ["y"])]
    model = model_of(nodes, {"x": (FLOAT, ["b", 3])}, ["y"], {"w": np.ones(3, np.float32)})
    with pytest.raises(rt.UnsupportedProblem, match=r"RandomUniformLike \(node 'dice'\) draws random numbers"):
        rt.from_onnx(model)


def test_a_shape_that_is_computed_from_values_is_named() -> None:
    model = model_of(
        [helper.make_node("Reshape", ["x", "s"], ["y"], "turn")],
        {"x": (FLOAT, ["b", 3]), "s": (TensorProto.INT64, [2])},
        ["y"],
    )
    with pytest.raises(rt.UnsupportedProblem, match=r"Reshape \(node 'turn'\) takes its input 1, 's'"):
        rt.from_onnx(model)
    x = torch.randn(2, 3)
    assert rt.from_onnx(model, fixed={"s": [3, 2]})(x).shape == (3, 2)


def test_external_data(tmp_path: Path) -> None:
    weight = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    model = model_of([helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": (FLOAT, ["b", 64])}, ["y"], {"w": weight})
    path = tmp_path / "net.onnx"
    onnx.save_model(model, str(path), save_as_external_data=True, location="net.data", size_threshold=16)
    x = torch.randn(2, 64)
    assert torch.allclose(rt.from_onnx(path)(x), x @ torch.from_numpy(weight), atol=1e-4)
    bare = onnx.load(str(path), load_external_data=False)
    with pytest.raises(rt.FormatError, match="weights are in other files"):
        rt.from_onnx(bare)
    (tmp_path / "net.data").unlink()
    with pytest.raises(rt.FormatError):
        rt.from_onnx(path)
    for entry in bare.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = "../outside.data"
    (tmp_path / "outside.data").write_bytes(b"0" * 64 * 64 * 4)
    inner = tmp_path / "inner"
    inner.mkdir()
    onnx.save_model(bare, str(inner / "net.onnx"))
    with pytest.raises(rt.FormatError):
        rt.from_onnx(inner / "net.onnx")


@pytest.mark.parametrize("seed", range(60))
def test_damaged_bytes_give_a_typed_error_or_a_module(seed: int) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"], "product"), helper.make_node("Add", ["m", "b"], ["s"], "sum"),
        helper.make_node("Gelu", ["s"], ["g"], "gelu", approximate="tanh"), helper.make_node("Reshape", ["g", "z"], ["r"]),
        helper.make_node("Softmax", ["r"], ["y"], "softmax", axis=-1),
    ]  # fmt: skip
    weights = {"w": np.ones((3, 6), np.float32), "b": np.ones(6, np.float32), "z": np.array([-1, 2, 3])}
    data = model_of(nodes, {"x": (FLOAT, ["b", 3])}, ["y"], weights).SerializeToString()
    draw = random.Random(seed)
    for _ in range(100):
        damaged = bytearray(data)
        for _ in range(draw.randint(1, 5)):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        with contextlib.suppress(rt.RtaccelError):
            assert isinstance(rt.from_onnx(bytes(damaged)), torch.nn.Module)


def test_names_that_torch_does_not_allow() -> None:
    names = ["a.b", "a", "forward", "1/x:0", "a.b.c", "training", "class"]
    weights = {name: np.full(3, i, np.float32) for i, name in enumerate(names)}
    nodes, source = [], "in/put:0"
    for i, name in enumerate(names):
        nodes.append(helper.make_node("Add", [source, name], [f"s{i}"]))
        source = f"s{i}"
    module = rt.from_onnx(model_of(nodes, {"in/put:0": (FLOAT, ["b", 3])}, [source], weights))
    assert torch.equal(module(torch.zeros(1, 3)), torch.full((1, 3), float(sum(range(len(names))))))
    found = module.meta["onnx"]
    assert found["inputs"] == ("in/put:0",) and sorted(found["weights"].values()) == sorted(names)
    assert set(found["weights"]) == set(module.state_dict())
    fast = rt.compile(module, (torch.zeros(1, 3),))
    assert torch.equal(fast(torch.ones(2, 3)), module(torch.ones(2, 3)))


def test_the_callers_proto_is_left_alone() -> None:
    model = small()
    before = model.SerializeToString()
    rt.from_onnx(model)
    assert model.SerializeToString() == before


def test_without_the_package(tmp_path: Path) -> None:
    code = "import sys; sys.modules['onnx'] = None\nimport rtaccel as rt\ntry:\n    rt.from_onnx('net.onnx')\n"
    code += "except rt.BackendUnavailable as error:\n    print(error)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert "pip install 'rtaccel[onnx]'" in done.stdout, done.stderr


def test_names_of_the_standard_are_kept_apart_from_constants() -> None:
    """An initializer that is an input too, as old files have it, is a constant."""
    model = model_of([helper.make_node("Add", ["x", "w"], ["y"])], {"x": (FLOAT, ["b", 3]), "w": (FLOAT, [3])}, ["y"])
    model.graph.initializer.append(numpy_helper.from_array(np.ones(3, np.float32), "w"))
    assert torch.equal(rt.from_onnx(model)(torch.zeros(1, 3)), torch.ones(1, 3))
