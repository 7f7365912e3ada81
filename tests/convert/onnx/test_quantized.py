"""Quantized files: QDQ in steps of the file, operators on whole numbers, and the file's scales in int8 kernels."""

# ruff: noqa: E402, the packages may be absent

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

onnx = pytest.importorskip("onnx", reason="needs the package onnx (extra 'onnx')")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs the package onnxruntime")
pytest.importorskip("onnxscript", reason="torch's exporter needs onnxscript")

from onnx import TensorProto, helper, numpy_helper
from onnxruntime import quantization as q

import rtaccel as rt
from tests.convert.onnx.test_forms import model_of
from tests.support.onnx_peer import run, session, worst

pytestmark = pytest.mark.filterwarnings("ignore")
NETWORKS = {
    "mlp": (lambda: nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 24), nn.Tanh(), nn.Linear(24, 3)), (16,)),
    "conv": (
        lambda: nn.Sequential(nn.Conv1d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv1d(8, 4, 3), nn.Flatten(), nn.Linear(56, 2)),
        (3, 16),
    ),
}  # fmt: skip


class Samples(q.CalibrationDataReader):
    def __init__(self, shape: tuple[int, ...]) -> None:
        rng = np.random.default_rng(5)
        self.left = iter([{"x": rng.standard_normal((1, *shape)).astype(np.float32)} for _ in range(32)])

    def get_next(self) -> Any:
        return next(self.left, None)


def quantized(name: str, folder: Path, kind: str, form: str = "qdq") -> Path:
    make, shape = NETWORKS[name]
    logging.disable(logging.WARNING)
    dynamic = ({0: torch.export.Dim.DYNAMIC},)
    torch.onnx.export(make().eval(), (torch.randn(1, *shape),), str(folder / "f.onnx"), dynamo=True, verbose=False,
                      external_data=False, input_names=["x"], dynamic_shapes=dynamic)  # fmt: skip
    target = folder / "q.onnx"
    if form == "dynamic":
        q.quantize_dynamic(str(folder / "f.onnx"), str(target), weight_type=q.QuantType.QInt8)
    else:
        q.quantize_static(
            str(folder / "f.onnx"), str(target), Samples(shape), per_channel=True, weight_type=q.QuantType.QInt8,
            quant_format=q.QuantFormat.QDQ if form == "qdq" else q.QuantFormat.QOperator,
            activation_type=q.QuantType.QUInt8 if kind == "uint8" else q.QuantType.QInt8,
        )  # fmt: skip
    logging.disable(logging.NOTSET)
    return target


def last_step(path: Path) -> float:
    """The largest scale of an activation."""
    model = onnx.load(str(path))
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    scales = [constants[n.input[1]].max() for n in model.graph.node if n.op_type == "QuantizeLinear"]
    return float(max(scales))


@pytest.mark.parametrize("kind", ["uint8", "int8"])
@pytest.mark.parametrize("name", NETWORKS)
def test_qdq_and_its_scales_in_int8_kernels(name: str, kind: str, tmp_path: Path) -> None:
    path = quantized(name, tmp_path, kind)
    module, peer, step = rt.from_onnx(path), session(str(path)), last_step(path)
    x = torch.randn(64, *NETWORKS[name][1])
    wanted = run(peer, {"x": x})[0]
    fast = rt.compile(module, x[:1])
    whole = rt.compile(module, x[:1], scheme="w8a8")
    assert "the model brings along" in whole.explain(measure=False)
    assert "dynamic): int8" not in whole.explain(measure=False)
    stages = [s for s in whole._program.stages if s.op in ("linear", "conv")]
    assert stages and all(s.inputs[0].dtype == "int8" and s.inputs[0].quant is not None for s in stages)
    for got in (module(x), fast(x), whole(x)):
        off = np.abs(got.detach().numpy() - wanted)
        assert off.max() <= 1.01 * step and (off > 1e-4).mean() < 0.05, (off.max(), step)


@pytest.mark.parametrize("form", ["qoperator", "dynamic"])
def test_operators_on_whole_numbers(form: str, tmp_path: Path) -> None:
    for name in ("mlp", "conv"):
        path = quantized(name, tmp_path, "uint8", form)
        kinds = {node.op_type for node in onnx.load(str(path)).graph.node}
        assert kinds & {"QLinearConv", "QLinearMatMul", "QGemm", "MatMulInteger", "ConvInteger"}
        if "QGemm" in kinds:
            with pytest.raises(rt.UnsupportedProblem, match=r"com.microsoft.QGemm"):
                rt.from_onnx(path)
            continue
        x = torch.randn(1, *NETWORKS[name][1])
        wanted = run(session(str(path)), {"x": x})
        assert worst(rt.from_onnx(path)(x), wanted) < 2e-2


@pytest.mark.parametrize("opset", [13, 21])
def test_weights_of_a_block_or_channel_become_parameters(opset: int) -> None:
    rng = np.random.default_rng(0)
    q8, scale = rng.integers(-127, 128, (32, 6)).astype(np.int8), rng.random(6).astype(np.float32) + 0.1
    attrs: dict[str, Any] = {"axis": 1}
    wanted = q8.astype(np.float32) * scale
    if opset == 21:
        blocks = rng.random((2, 6)).astype(np.float32) + 0.1
        attrs, wanted, scale = {"axis": 0, "block_size": 16}, q8.astype(np.float32) * blocks.repeat(16, 0), blocks
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "s"], ["w"], **attrs),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    model = model_of(nodes, {"x": (TensorProto.FLOAT, ["b", 32])}, ["y"], {"q": q8, "s": scale}, opset)
    module = rt.from_onnx(model)
    (weight,) = module.parameters()
    assert torch.equal(weight, torch.from_numpy(wanted))
    assert [node.op for node in module.graph.nodes].count("call_function") == 1


def test_a_weight_of_four_bits() -> None:
    values = np.arange(-8, 8, dtype=np.int8).reshape(4, 4)
    packed = helper.make_tensor("q", TensorProto.INT4, (4, 4), values.flatten())
    nodes = [helper.make_node("DequantizeLinear", ["q", "s"], ["w"]), helper.make_node("MatMul", ["x", "w"], ["y"])]
    model = model_of(nodes, {"x": (TensorProto.FLOAT, ["b", 4])}, ["y"], {"s": np.float32(0.5)})
    model.graph.initializer.append(packed)
    assert torch.equal(rt.from_onnx(model)(torch.eye(4)), torch.from_numpy(values * np.float32(0.5)))
