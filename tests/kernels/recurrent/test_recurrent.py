"""LSTM and GRU: what the fixed arithmetic promises, streams, and the drop-in modules. Kernels: test_conformance.py."""

from __future__ import annotations

import io
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from torch import nn

import rtaccel as rt
from rtaccel.core.batch import ANY_BATCH
from rtaccel.core.errors import FormatError, ShapeError, UnsupportedProblem
from rtaccel.core.registry import operator
from rtaccel.core.stage import GraphIO, Stage, Value
from rtaccel.kernels.recurrent.cases import make_inputs, make_stage
from rtaccel.kernels.recurrent.layout import Geometry
from rtaccel.kernels.recurrent.reference import TANH_ERROR, fma32, tanh_quotient
from rtaccel.plan.choose import choose

KINDS = [("lstm", 4, nn.LSTM, rt.nn.QuantLSTM), ("gru", 3, nn.GRU, rt.nn.QuantGRU)]
FORMS = ["float32", "int8-static", "int8-dynamic", "int4-dynamic"]


def rms(got: torch.Tensor, want: torch.Tensor) -> float:
    return ((got.double() - want.double()).square().mean() / want.double().square().mean()).sqrt().item()


def hx_of(kind: str, layers: int, batch: int, hidden: int):
    h = torch.rand(layers, batch, hidden) * 2 - 1
    return (h, torch.rand(layers, batch, hidden) * 2 - 1) if kind == "lstm" else h


def test_tanh_quotient_is_as_near_as_it_says() -> None:
    t = torch.cat([torch.linspace(-9, 9, 200_001), torch.tensor([0.0, -0.0, 1e-30, 1e30, float("inf")])])
    num, den = tanh_quotient(t)
    assert ((num / den).double() - torch.tanh(t.double())).abs().max() <= TANH_ERROR
    assert (num / den).abs().max() < 1


def test_fma32_rounds_once() -> None:
    a, b = torch.randn(2000), torch.randn(2000)
    c = -a * b * (1 + torch.randn(2000) * 1e-7) + torch.randn(2000) * torch.randint(0, 2, (2000,))
    got = fma32(a, b, c)
    for x, y, z, result in zip(a.tolist(), b.tolist(), c.tolist(), got):
        exact = Fraction(x) * Fraction(y) + Fraction(z)
        up, down = torch.nextafter(result, torch.tensor(9e9)).item(), torch.nextafter(result, torch.tensor(-9e9)).item()
        distance = abs(Fraction(result.item()) - exact)
        assert distance <= abs(Fraction(up) - exact) and distance <= abs(Fraction(down) - exact)


def streaming(stage: Stage, samples: int):
    """A plan of the stage whose states are one value before and after."""
    from rtaccel.kernels._core.cpu import States, build

    names = {v.name for v in stage.inputs[1:]}
    outputs = (stage.outputs[0], *stage.inputs[1:])
    inner = Stage(stage.op, "step", stage.inputs, outputs, stage.tensors, stage.attrs)
    kernel = choose(inner, samples).impl.name
    return build(
        [(inner, kernel)], [GraphIO.matrix(stage.inputs[0])], [GraphIO.matrix(outputs[0])], ANY_BATCH,
        States(frozenset(names), samples, -1),
    )  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k[0])
def test_a_stream_equals_the_window(kind, form: str) -> None:
    op, gates, _, _ = kind
    window = make_stage(op, gates, Geometry(37, layers=3, time=9), 11, form, states=False)
    one = make_stage(op, gates, Geometry(37, layers=3), 11, form)
    x = make_inputs(window, 3, seed=5)[0]
    want = choose(window, 3).impl.prepare(window, choose(window, 3).problem)(x)[0]
    plan = streaming(one, 3)
    for t in range(9):
        got = plan.call((x[:, t].contiguous(),))
        if form == "float32":
            torch.testing.assert_close(got, want[:, t], rtol=0, atol=2e-5)
        else:
            assert torch.equal(got, want[:, t])


@pytest.mark.parametrize("form", ["int8-dynamic", "int8-own", "int4-dynamic", "float32"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k[0])
def test_a_nan_stays_in_its_stream(kind, form: str) -> None:
    op, gates, _, _ = kind
    for geometry, where in ((Geometry(21, layers=2, time=4), (2, 1, 3)), (Geometry(21, layers=2), (2, 3))):
        stage = make_stage(op, gates, geometry, 6, form)
        inputs = make_inputs(stage, 5, seed=1)
        choice = choose(stage, 5)
        call = choice.impl.prepare(stage, choice.problem)
        clean = call(*inputs)
        inputs[0][where] = float("nan")
        for got, want in zip(call(*inputs), clean):
            others = [0, 1, 3, 4]
            assert torch.equal(got[others], want[others])
            assert got[2].isnan().any() if form == "float32" else got[2].isnan().all()


@pytest.mark.parametrize(("scheme", "bound"), [("w8a8", 0.03), ("w4a8", 0.15)])
@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k[0])
def test_error_after_64_steps_with_own_state(kind, scheme: str, bound: float) -> None:
    _, _, layer, quantized = kind
    torch.manual_seed(3)
    module = layer(32, 64, 2).eval()
    made = quantized.from_float(module, scheme)
    x, want, got, before, own = torch.randn(64, 1, 32), [], [], None, None
    with torch.no_grad():
        for t in range(64):
            y, before = module(x[t : t + 1], before)
            z, own = made(x[t : t + 1], own)
            want.append(y)
            got.append(z)
    assert rms(torch.cat(got), torch.cat(want)) < bound


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k[0])
def test_module_is_called_as_torch_is(kind, batch_first: bool, bidirectional: bool) -> None:
    name, _, layer, quantized = kind
    module = layer(10, 19, 2, batch_first=batch_first, bidirectional=bidirectional).eval()
    made = quantized.from_float(module, rt.W8A8(), calibration=torch.randn(200, 10))
    assert made.scheme.activation == "static"
    rows = 4 if bidirectional else 2
    x = torch.randn(5, 3, 10)
    hx = hx_of(name, rows, 5 if batch_first else 3, 19)
    strided = torch.randn(5, 3, 20)[..., ::2]
    with torch.no_grad():
        for args in ((x,), (x, hx), (strided, hx), (x[0],)):
            (want, want_state), (got, got_state) = module(*args), made(*args)
            pairs = [(got, want)]
            pairs += zip(got_state, want_state) if name == "lstm" else [(got_state, want_state)]
            for a, b in pairs:
                assert a.shape == b.shape and a.dtype == b.dtype and rms(a, b) < 0.08
        compiled = torch.compile(made, backend="eager", fullgraph=True)
        assert torch.equal(compiled(x, hx)[0], made(x, hx)[0])
        exported = torch.export.export(made, (x, hx)).module()
        assert torch.equal(exported(x, hx)[0], made(x, hx)[0])


@pytest.mark.parametrize("scheme", ["w8a8", "w4a8"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k[0])
def test_state_dict_round_trip(kind, scheme: str) -> None:
    _, _, layer, quantized = kind
    made = quantized.from_float(layer(7, 18, 2, bidirectional=True), scheme, calibration=torch.randn(50, 7))
    file = io.BytesIO()
    torch.save(made.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    other = quantized.from_float(layer(7, 18, 2, bidirectional=True), scheme, calibration=torch.randn(50, 7))
    x = torch.randn(4, 2, 7)
    before = other(x)[0]
    bad = {**state, "h_scale": torch.tensor(float("nan"))}
    with pytest.raises(FormatError, match="h_scale"):
        other.load_state_dict(bad)
    assert torch.equal(other(x)[0], before)
    other.load_state_dict(state)
    assert torch.equal(other(x)[0], made(x)[0])
    half = other.half()
    assert half.h_scale.dtype == torch.float32


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k[0])
def test_errors(kind) -> None:
    name, _, layer, quantized = kind
    made = quantized.from_float(layer(7, 18), "w8a8")
    good = hx_of(name, 1, 3, 18)
    for args in (
        (torch.randn(5, 3, 8),), (torch.randn(7),), (torch.randn(5, 3, 7).double(),), ([1.0],), (torch.randn(0, 3, 7),),
        (torch.randn(5, 4, 7), good), (torch.randn(5, 7), good), (torch.randn(5, 3, 7), hx_of(name, 2, 3, 18)),
        (torch.randn(5, 3, 7), 3),
    ):  # fmt: skip
        with pytest.raises(ShapeError):
            made(*args)
    assert made(torch.randn(5, 3, 7), good)[0].shape == (5, 3, 18)
    with pytest.raises(FormatError, match="static"):
        quantized.from_float(layer(7, 18), rt.W8A8(activation="static"))
    with pytest.raises(UnsupportedProblem):
        quantized.from_float(nn.Linear(3, 3), "w8a8")
    with pytest.raises(UnsupportedProblem):
        quantized.from_float(layer(7, 18).double(), "w8a8")
    broken = layer(7, 18)
    broken.weight_hh_l0.data[3, 4] = float("nan")
    with pytest.raises(FormatError, match="weight_hh_l0"):
        quantized.from_float(broken, "w8a8")
    stage = make_stage(name, 4 if name == "lstm" else 3, Geometry(8), 5)
    wrong = replace(stage, outputs=(Value("y", 9), *stage.outputs[1:]))
    with pytest.raises(UnsupportedProblem, match="by 9"):
        operator(name).lower(wrong)


def test_quantize_swaps_and_restores() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.gru, self.head = nn.LSTM(12, 24, 2), nn.GRU(24, 16), nn.Linear(16, 4)
            self.projected = nn.LSTM(16, 16, proj_size=8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.gru(self.lstm(x)[0])[0])

    model = Net().eval()
    x = torch.randn(6, 2, 12)
    with torch.no_grad():
        want = model(x)
        report = rt.quantize_(model, "w8a8", calibration=[x], force=True)
        assert type(model.lstm) is rt.nn.QuantLSTM and type(model.gru) is rt.nn.QuantGRU
        assert [e.action for e in report] == ["swapped", "swapped", "swapped", "kept"]
        assert all(e.error < 0.1 for e in report if e.error is not None)
        assert rms(model(x), want) < 0.1
        assert rt.restore_(model) == 3
        assert torch.equal(model(x), want)
