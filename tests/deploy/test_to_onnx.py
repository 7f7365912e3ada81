"""Compiled models as ONNX files: ONNX Runtime gives what the compiled model gives."""

# ruff: noqa: E402, the packages may be absent

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

onnx = pytest.importorskip("onnx", reason="needs the package onnx (extra 'onnx')")
pytest.importorskip("onnxruntime", reason="needs the package onnxruntime")

import rtaccel as rt
from rtaccel.core.registry import operators
from rtaccel.deploy.onnx.registry import forms
from rtaccel.kernels.tree_ensemble.contract import random_tables
from tests.support.onnx_peer import run, session, worst
from tests.support.stages import Averages

pytestmark = pytest.mark.filterwarnings("ignore")


def mlp() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(48, 64), nn.SiLU(), nn.Linear(64, 40), nn.ReLU(), nn.Linear(40, 40), nn.Tanh(), nn.Linear(40, 3)
    ).eval()


def frames() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv1d(3, 8, 3, padding=1), nn.BatchNorm1d(8), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(8, 4, 3), nn.Flatten(),
        nn.Linear(24, 5), nn.Softmax(-1),
    ).eval()  # fmt: skip


def image() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU6(), nn.Conv2d(8, 8, 3, groups=8), nn.Hardswish(),
        nn.AvgPool2d(2, padding=1), nn.Conv2d(8, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3),
    ).eval()  # fmt: skip


class Recurrent(nn.Module):
    def __init__(self, kind: Any, last: bool, both: bool = False) -> None:
        super().__init__()
        self.cell = kind(6, 8, 2, batch_first=True, bidirectional=both)
        self.head = nn.Linear(16 if both else 8, 2)
        self.last = last

    def forward(self, x: Tensor) -> Tensor:
        y = self.cell(x)[0]
        return self.head(y[:, -1] if self.last else y)


class Step(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.LSTMCell(6, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, ...]:
        h, c = self.cell(x, (h, c))
        return self.head(h), h, c


class Elementwise(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        y = torch.where(x > 0, x.exp() - 1, torch.sin(x) * x.abs().sqrt()) / (1 + x**2) + x.mean(-1, keepdim=True)
        return (
            y,
            x.transpose(1, 2) + 1,
            x > 0.5,
            (x * 3).round().clamp(-2, 2),
            torch.log1p(x.abs()) - torch.expm1(-x.abs()),
        )


class Movement(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return (
            torch.cat([x, x.flip(-1)], -1), F.pad(x, (1, 2), value=3.0), x.amax(1), F.normalize(x, dim=-1),
            F.interpolate(x, scale_factor=2.0, mode="linear"), x.std(-1), x @ x.transpose(1, 2), x[:, [2, 0, 1]].flatten(1),
        )  # fmt: skip


class Looked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(10, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.table(x).mean(1))


class Windowed(nn.Module):
    """Attention of three windows of five rows, with a bias of each head."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.bias = nn.Linear(8, 24), nn.Parameter(torch.randn(2, 5, 5))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).view(-1, 3, 5, 3, 2, 4).permute(3, 0, 1, 4, 2, 5).unbind(0)
        y = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=self.bias)
        return y.transpose(2, 3).reshape(-1, 15, 8)


class Selective(nn.Module):
    """States of several numbers a channel, with the time steps between them; backward, and with a constant factor, too."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.mix, self.decay = nn.Linear(4, 6), nn.Linear(4, 3), nn.Parameter(torch.rand(6, 3))

    def forward(self, x: Tensor) -> Tensor:
        u, c = torch.tanh(self.first(x)), self.mix(x)
        a, b = (
            torch.sigmoid(u[..., None] * self.decay).permute(0, 2, 1, 3),
            (u[..., None] * c[:, :, None]).permute(0, 2, 1, 3),
        )
        h, g, made, back = torch.zeros_like(b[:, :, 0]), torch.zeros_like(b[:, :, 0]), [], []
        for t in range(x.shape[1]):
            h = a[:, :, t] * h + b[:, :, t]
            g = self.decay * g + b[:, :, x.shape[1] - 1 - t]
            made.append((h @ c[:, t, :, None])[..., 0])
            back.append(g.sum(-1))
        return torch.stack(made, 1) + torch.stack(back, 1)


class Forest(nn.Module):
    """Trees between elementwise calls; some nodes belong to none of them."""

    def __init__(self, strict: bool) -> None:
        super().__init__()
        tables = random_tables(20, 6, 3, 5)
        tables["root"] = tables["root"][1:]
        names = ("feature", "threshold", "child", "value", "root", "nan_first")
        self.trees = rt.nn.TreeEnsemble(6, *(tables[name] for name in names), strict=strict)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.trees(x * 2))


FLOATS: dict[str, tuple[Any, tuple[Tensor, ...]]] = {
    "mlp": (mlp, (torch.randn(2, 48),)),
    "rows": (lambda: nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 2)), (torch.randn(2, 5, 6),)),
    "frames": (frames, (torch.randn(2, 3, 16),)),
    "image": (image, (torch.randn(2, 3, 17, 19),)),
    "lstm": (lambda: Recurrent(nn.LSTM, True), (torch.randn(2, 5, 6),)),
    "gru": (lambda: Recurrent(nn.GRU, False), (torch.randn(2, 5, 6),)),
    "rnn": (lambda: Recurrent(nn.RNN, False, True), (torch.randn(2, 5, 6),)),
    "both directions": (lambda: Recurrent(nn.GRU, False, True), (torch.randn(2, 5, 6),)),
    "states": (Step, (torch.randn(2, 6), torch.randn(2, 8), torch.randn(2, 8))),
    "encoder": (lambda: nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), (torch.randn(2, 5, 16),)),
    "windows": (Windowed, (torch.randn(2, 15, 8),)),
    "norms": (
        lambda: nn.Sequential(
            nn.LayerNorm(8), nn.Linear(8, 8), nn.RMSNorm(8), nn.Softplus(), nn.Linear(8, 4), nn.Mish()
        ),
        (torch.randn(2, 8),),
    ),
    "groups": (
        lambda: nn.Sequential(nn.Conv1d(4, 8, 3), nn.GroupNorm(2, 8), nn.ELU(), nn.ConvTranspose1d(8, 4, 4, 2, 1)),
        (torch.randn(2, 4, 9),),
    ),
    "averages": (Averages, (torch.randn(2, 7, 6),)),
    "selective": (Selective, (torch.randn(2, 9, 4),)),
    "elementwise": (Elementwise, (torch.randn(2, 3, 4),)),
    "movement": (Movement, (torch.randn(2, 3, 4),)),
    "embedding": (Looked, (torch.randint(0, 10, (2, 4)),)),
    "trees": (lambda: Forest(False), (torch.randn(2, 6),)),
    "trees over rows": (lambda: Forest(True), (torch.randn(2, 3, 6),)),
}


def others(x: tuple[Tensor, ...], size: int) -> tuple[Tensor, ...]:
    return tuple(
        torch.randn(size, *t.shape[1:]) if t.is_floating_point() else torch.randint(0, 10, (size, *t.shape[1:]))
        for t in x
    )


@pytest.mark.parametrize("name", FLOATS)
def test_float32(name: str, tmp_path: Path) -> None:
    make, x = FLOATS[name]
    fast = rt.compile(make().eval(), x)
    written = rt.to_onnx(fast, tmp_path / "net.onnx")
    onnx.checker.check_model(written, full_check=True)
    assert {(o.domain, o.version) for o in written.opset_import} <= {("", 21), ("ai.onnx.ml", 3)}
    peer = session(str(tmp_path / "net.onnx"))
    for size in (2, 1, 5):
        given = x if size == 2 else others(x, size)
        if size in fast.batch:
            assert worst(fast(*given), run(peer, given)) < 2e-6
    again = rt.compile(rt.from_onnx(written), x)  # and back
    assert worst(again(*x), [t.numpy() for t in (fast(*x) if isinstance(fast(*x), tuple) else (fast(*x),))]) < 2e-6


CHAINS = {"mlp": (mlp, (48,)), "frames": (frames, (3, 16)), "image": (image, (3, 17, 19))}


@pytest.mark.parametrize("name", CHAINS)
def test_an_int8_chain_is_within_a_step_of_its_last_scale(name: str) -> None:
    make, shape = CHAINS[name]
    fast = rt.compile(make(), torch.randn(1, *shape), scheme="w8a8", calibration=[torch.randn(64, *shape)])
    written = rt.to_onnx(fast)
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in written.graph.initializer}
    quants = {s.inputs[0].quant for s in fast._program.stages if s.inputs[0].quant is not None}
    stored = {
        (float(constants[n.input[1]]), int(constants[n.input[2]]))
        for n in written.graph.node
        if n.op_type == "QuantizeLinear"
    }
    assert stored == {(float(np.float32(quant.scale)), quant.zero_point) for quant in quants}
    layers = [s for s in fast._program.stages if "weight" in s.tensors]
    last = layers[-1]
    weight = last.tensors["weight"].float() * last.tensors["weight_scale"][:, None]
    step = last.inputs[0].quant.scale * weight.abs().amax().item() * 2
    x = torch.randn(200, *shape)
    got, (wanted,) = fast(x).numpy(), run(written, (x,))
    off = np.abs(got - wanted)
    assert off.max() <= step and (off > 1e-3 * np.abs(got).max()).mean() < 0.05, (off.max(), step)


@pytest.mark.parametrize("scheme", ["w8a16", "w4a16", "bfloat16", "w8a8", "w4a8"])
@pytest.mark.parametrize("calibrated", [False, True])
def test_other_schemes(scheme: str, calibrated: bool) -> None:
    """W8A16: activations of 16 bits here, float32 there. w8a8 and w4a8 without calibration have a scale per row."""
    fast = rt.compile(
        mlp(), torch.randn(1, 48), scheme=scheme, calibration=[torch.randn(64, 48)] if calibrated else None
    )
    written = rt.to_onnx(fast)
    x = torch.randn(50, 48)
    assert worst(fast(x), run(written, (x,))) < (1e-2 if calibrated or scheme in ("w4a8", "w8a8") else 2e-3)
    kinds = {t.data_type for t in written.graph.initializer}
    assert (onnx.TensorProto.INT4 in kinds) == scheme.startswith("w4")
    assert (onnx.TensorProto.INT8 in kinds) == (scheme.startswith("w8") or (scheme == "w4a8" and calibrated))


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
@pytest.mark.parametrize("scheme", ["w8a8", "w4a8"])
def test_quantized_recurrent_layers_come_near(kind: Any, scheme: str) -> None:
    fast = rt.compile(
        Recurrent(kind, True).eval(), torch.randn(1, 5, 6), scheme=scheme, calibration=[torch.randn(64, 5, 6)]
    )
    x = torch.randn(20, 5, 6)
    assert worst(fast(x), run(rt.to_onnx(fast), (x,))) < 5e-2


def test_rows_of_zeros_with_a_scale_per_row() -> None:
    fast = rt.compile(mlp(), torch.randn(1, 48), scheme="w8a8")
    x = torch.randn(3, 48)
    x[1] = 0.0
    assert worst(fast(x), run(rt.to_onnx(fast), (x,))) < 1e-5


def test_what_has_no_form_is_named_and_no_file_is_made(tmp_path: Path) -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.linalg.inv(x.view(-1, 2, 2, 2) + 9 * torch.eye(2))

    path = tmp_path / "net.onnx"
    fast = rt.compile(Odd().eval(), torch.randn(2, 8))
    with pytest.raises(rt.UnsupportedProblem, match="solve"):
        rt.to_onnx(fast, path)
    live = rt.stream(nn.Sequential(nn.Conv1d(3, 4, 3)).eval(), torch.randn(1, 3))
    with pytest.raises(rt.UnsupportedProblem, match="keeps its past inside"):
        rt.to_onnx(live, path)
    with pytest.raises(rt.FormatError, match=r"what rt\.compile gave"):
        rt.to_onnx(mlp(), path)
    good = rt.compile(mlp(), torch.randn(1, 48))
    for bad in (tmp_path / "missing" / "net.onnx", tmp_path, 3):
        with pytest.raises(rt.FormatError, match="to_onnx"):
            rt.to_onnx(good, bad)
    assert list(tmp_path.iterdir()) == []


def test_names_and_the_batch() -> None:
    class Named(nn.Module):
        def forward(self, left: Tensor, right: Tensor) -> Tensor:
            return left + right

    written = rt.to_onnx(rt.compile(Named().eval(), (torch.randn(2, 4), torch.randn(2, 4))))
    assert [entry.name for entry in written.graph.input] == ["left", "right"]
    assert [d.dim_param or d.dim_value for d in written.graph.input[0].type.tensor_type.shape.dim] == ["batch", 4]
    assert [entry.name for entry in written.graph.output] == ["output"]


def test_forms_are_of_operators_that_there_are() -> None:
    assert set(forms()) <= {*operators()}
