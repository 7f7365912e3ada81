"""What exporters write: torch's own in both forms, scikit-learn through skl2onnx, Keras through tf2onnx."""

# ruff: noqa: E402, the packages may be absent

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

onnx = pytest.importorskip("onnx", reason="needs the package onnx (extra 'onnx')")
pytest.importorskip("onnxruntime", reason="needs the package onnxruntime")

import rtaccel as rt
from tests.support.networks.sequence_models import DepthwiseSeparable, LastTimeStep, Tcn
from tests.support.onnx_peer import run, session, worst

pytestmark = pytest.mark.filterwarnings("ignore")


class WithStates(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 8, 2)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, ...]:
        y, (h, c) = self.lstm(x, (h, c))
        return y, h, c


class Recurrent(nn.Module):
    def __init__(self, kind: Any, last: bool = True, **more: Any) -> None:
        super().__init__()
        self.cell = kind(6, 8, 2, batch_first=True, **more)
        self.head = nn.Linear(16 if more.get("bidirectional") else 8, 2)
        self.last = last

    def forward(self, x: Tensor) -> Tensor:
        y = self.cell(x)[0]
        return self.head(y[:, -1] if self.last else y)


NETWORKS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "mlp": (lambda: nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 3)), (16,)),
    "lstm": (lambda: Recurrent(nn.LSTM), (5, 6)),
    "gru": (lambda: Recurrent(nn.GRU, last=False), (5, 6)),
    "rnn": (lambda: Recurrent(nn.RNN), (5, 6)),
    "both directions": (lambda: Recurrent(nn.LSTM, last=False, bidirectional=True), (5, 6)),
    "encoder": (lambda: nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), (5, 16)),
    "frames": (
        lambda: nn.Sequential(
            nn.Conv1d(3, 8, 3, padding=1), nn.BatchNorm1d(8), nn.ReLU6(), nn.MaxPool1d(2), nn.ConvTranspose1d(8, 4, 4, 2, 1),
            nn.GroupNorm(2, 4), nn.Hardswish(), nn.AdaptiveAvgPool1d(2), nn.Flatten(),
        ),
        (3, 16),
    ),
    "image": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1), nn.SiLU(), nn.Conv2d(8, 8, 3, groups=8, padding="same"),
            nn.InstanceNorm2d(8, affine=True), nn.Upsample(scale_factor=2, mode="bilinear"), nn.PixelShuffle(2),
            nn.AvgPool2d(2, ceil_mode=True),
        ),
        (3, 9, 11),
    ),
    "newest step": (lambda: LastTimeStep(), (9, 10)),
    "causal": (lambda: Tcn(), (5, 40)),
    "separable": (lambda: DepthwiseSeparable(), (1, 49, 10)),
}  # fmt: skip


@pytest.fixture(autouse=True)
def quiet() -> Any:
    logging.disable(logging.WARNING)
    torch.backends.mha.set_fastpath_enabled(False)
    yield
    torch.backends.mha.set_fastpath_enabled(True)
    logging.disable(logging.NOTSET)


def export(model: nn.Module, x: tuple[Tensor, ...], path: Path, how: str) -> None:
    if how == "dynamo":
        pytest.importorskip("onnxscript", reason="torch's exporter needs onnxscript")
        torch.onnx.export(model, x, str(path), dynamo=True, verbose=False, external_data=False)
    else:
        torch.onnx.export(model, x, str(path), dynamo=False, input_names=["x"], dynamic_axes={"x": {0: "batch"}})


@pytest.mark.parametrize("how", ["dynamo", "torchscript"])
@pytest.mark.parametrize("name", NETWORKS)
def test_torch(name: str, how: str, tmp_path: Path) -> None:
    make, shape = NETWORKS[name]
    model = make().eval()
    x = torch.randn(1, *shape)
    path = tmp_path / "net.onnx"
    try:
        export(model, (x,), path, how)
    except TypeError as error:
        pytest.skip(f"torch's own exporter does not take it: {error}")
    fast = rt.compile(rt.from_onnx(path), (x,))
    assert fast.native[0] == fast.native[1], fast.explain(measure=False)
    peer = session(str(path))
    sizes = (1, 3) if how == "torchscript" and 3 in fast.batch else (1,)
    for size in sizes:
        given = torch.randn(size, *shape)
        assert worst(fast(given), run(peer, (given,))) < 1e-5
        with torch.no_grad():
            assert worst(fast(given), [model(given).numpy()]) < 1e-5


def test_states_go_in_and_out(tmp_path: Path) -> None:
    x, h, c = torch.randn(5, 1, 6), torch.randn(2, 1, 8), torch.randn(2, 1, 8)
    export(WithStates().eval(), (x, h, c), tmp_path / "net.onnx", "dynamo")
    fast = rt.compile(rt.from_onnx(tmp_path / "net.onnx"), (x, h, c))
    assert worst(fast(x, h, c), run(str(tmp_path / "net.onnx"), (x, h, c))) < 1e-5


def test_scikit_learn() -> None:
    skl2onnx = pytest.importorskip("skl2onnx", reason="needs the package skl2onnx")
    from sklearn.neural_network import MLPClassifier, MLPRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 12)).astype(np.float32)
    y = x[:, 0] * x[:, 1]
    regressor = MLPRegressor(hidden_layer_sizes=(32, 16), activation="tanh", max_iter=30)
    classifier = MLPClassifier(hidden_layer_sizes=(16,), max_iter=30)
    for estimator, target in (
        (make_pipeline(StandardScaler(), regressor), y), (classifier, y > 0), (classifier, np.digitize(y, [-0.5, 0.5])),
    ):  # fmt: skip
        labels = hasattr(estimator, "classes_") or isinstance(estimator, MLPClassifier)
        estimator.fit(x, target.astype(int) if labels else target)
        model = skl2onnx.to_onnx(estimator, x[:1], options={"zipmap": False} if labels else None)
        fast = rt.compile(rt.from_onnx(model), (torch.from_numpy(x[:1]),))
        assert fast.native[0] == fast.native[1], fast.explain(measure=False)
        assert worst(fast(torch.from_numpy(x[:7])), run(model, (torch.from_numpy(x[:7]),))) < 1e-5


def keras_mlp() -> Any:
    """The graph that tf2onnx 1.17 writes of a Keras Sequential of three Dense layers (tensorflow is too large to be here):
    products with the kernels as they are, biases behind them, a batch of its own name."""
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(1)
    nodes, weights, source = [], [], "x"
    for i, (k, n, kind) in enumerate(((12, 32, "Relu"), (32, 16, "Tanh"), (16, 3, "Softmax"))):
        prefix = f"StatefulPartitionedCall/sequential/dense_{i}"
        for name, shape in (
            (f"{prefix}/MatMul/ReadVariableOp:0", (k, n)),
            (f"{prefix}/BiasAdd/ReadVariableOp:0", (n,)),
        ):
            weights.append(numpy_helper.from_array((rng.standard_normal(shape) * 0.4).astype(np.float32), name))
        nodes += [
            helper.make_node(
                "MatMul", [source, f"{prefix}/MatMul/ReadVariableOp:0"], [f"{prefix}/MatMul:0"], f"{prefix}/MatMul"
            ),
            helper.make_node(
                "Add", [f"{prefix}/MatMul:0", f"{prefix}/BiasAdd/ReadVariableOp:0"], [f"{prefix}/BiasAdd:0"]
            ),
            helper.make_node(kind, [f"{prefix}/BiasAdd:0"], [f"{prefix}/{kind}:0"], f"{prefix}/{kind}"),
        ]
        source = f"{prefix}/{kind}:0"
    graph = helper.make_graph(
        nodes, "tf2onnx", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["unk__12", 12])],
        [helper.make_tensor_value_info(source, TensorProto.FLOAT, ["unk__13", 3])], weights,
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)


def test_keras_as_tf2onnx_writes_it() -> None:
    model = keras_mlp()
    module = rt.from_onnx(model)
    names = module.meta["onnx"]["weights"]
    assert set(names.values()) == {tensor.name for tensor in model.graph.initializer}
    assert set(names) == set(module.state_dict())
    x = torch.randn(4, 12)
    fast = rt.compile(module, (x[:1],))
    assert fast.native[0] == fast.native[1]
    assert worst(fast(x), run(model, (x,))) < 1e-5


def test_keras_itself() -> None:
    tf = pytest.importorskip("tensorflow", reason="needs tensorflow and tf2onnx")
    tf2onnx = pytest.importorskip("tf2onnx", reason="needs tf2onnx")
    import keras

    layers = keras.layers
    for net, shape in (
        (keras.Sequential([keras.Input((12,)), layers.Dense(32, activation="relu"), layers.Dense(3)]), (12,)),
        (keras.Sequential([keras.Input((7, 5)), layers.LSTM(8, return_sequences=True), layers.LSTM(6)]), (7, 5)),
        (keras.Sequential([keras.Input((7, 5)), layers.GRU(6, reset_after=False)]), (7, 5)),
    ):
        spec = [tf.TensorSpec((None, *shape), tf.float32, name="x")]
        model, _ = tf2onnx.convert.from_function(tf.function(net, input_signature=spec), input_signature=spec, opset=15)
        x = torch.randn(3, *shape)
        assert worst(rt.compile(rt.from_onnx(model), (x[:1],))(x), run(model, (x,))) < 1e-5
