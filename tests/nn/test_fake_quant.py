"""Fake quantization: the forward is the stored numbers', gradients go straight through the rounding."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import rtaccel as rt
from rtaccel.core.stage import QParams
from rtaccel.formats import int4, int8
from rtaccel.nn.qat import fake
from rtaccel.nn.qat.scan import GRUScan, LSTMScan

EPS = torch.finfo(torch.float32).eps


@settings(max_examples=60, deadline=None)
@given(st.floats(-1e3, 0), st.floats(0, 1e3))
def test_a_range_means_what_calibration_means_by_it(low: float, high: float) -> None:
    ends = torch.tensor([low, high])
    want = int8.quant_of_range(*map(float, ends))
    scale, zero = fake.quant_of(*ends.unbind())
    assert QParams(float(scale), int(zero)) == want


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 70), st.integers(0, 99))
def test_static_numbers_are_those_of_the_format(rows: int, width: int, seed: int) -> None:
    x = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)) * 3
    low, high = torch.tensor(-2.0), torch.tensor(4.5)
    scale, zero = fake.quant_of(low, high)
    quant = QParams(float(scale), int(zero))
    assert torch.equal(fake.static(x, low, high), int8.dequantize(int8.quantize(x, quant), quant))
    q, step = int8.dynamic(x)
    assert torch.equal(fake.dynamic(x), q.float() * step)


@pytest.mark.parametrize("scheme", [rt.W8A8(), rt.W4A8(group_size=16), rt.W8A16(), rt.W4A16()], ids=str)
def test_weights_are_those_of_the_format(scheme: rt.W4A8) -> None:
    w = torch.randn(7, 5, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    made = fake.weight(w, scheme, "test")
    flat = w.detach().reshape(7, -1)
    if "w4" in scheme.name:
        packed, scales = int4.quantize_weight(flat, scheme.group_size)
        want = int4.dequantize(packed, scales, 15, scheme.group_size).float()
    else:
        q, scale = int8.quantize_weight(flat)
        want = (q.double() * scale.double()[:, None]).float()
    assert torch.equal(made.detach(), want.reshape(w.shape))
    upstream = torch.randn_like(w)
    made.backward(upstream)
    assert torch.equal(w.grad, upstream)


def test_a_clipped_number_has_no_gradient_and_the_end_of_the_range_has_it() -> None:
    x = torch.tensor([-3.0, -0.5, 0.25, 2.0, 9.0], requires_grad=True)
    low, high = torch.tensor(-1.0, requires_grad=True), torch.tensor(2.55, requires_grad=True)
    y = fake.static(x, low, high)
    y.sum().backward()
    assert x.grad.tolist() == [0, 1, 1, 1, 0]
    scale, _ = fake.quant_of(low, high)
    inside = ((y - x).detach()[1:4] / (scale * 255)).sum()
    part = 5**-0.5
    assert float(high.grad) == pytest.approx(float((1 + inside) * part), rel=1e-5)
    assert float(low.grad) == pytest.approx(float((1 - inside) * part), rel=1e-5)


def test_the_gradient_of_a_range_is_that_of_its_mean_error() -> None:
    """Where many numbers are rounded, d/d high of the squared error is what moving the end does to it."""
    x = torch.randn(200_000, generator=torch.Generator().manual_seed(1))

    def loss(high: Tensor) -> Tensor:
        return (fake.static(x, -high, high) - x).square().sum()

    for end in (1.0, 2.0, 6.0):
        high = torch.tensor(end, requires_grad=True)
        loss(high).backward()
        step = 0.02 * end
        slope = float(loss(torch.tensor(end + step)) - loss(torch.tensor(end - step))) / (2 * step)
        assert float(high.grad) * len(x) ** 0.5 == pytest.approx(slope, rel=0.15, abs=0.02 * abs(slope) + 5)


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
@pytest.mark.parametrize("back", [False, True])
@settings(max_examples=8, deadline=None)
@given(st.integers(1, 9), st.integers(1, 4), st.integers(1, 12))
def test_the_scan_without_rounding_is_the_layer_of_torch(kind: str, back: bool, t: int, b: int, h: int) -> None:
    """Values and gradients within ten times the error of the quotient that stands for tanh, 5e-5, for each step."""
    torch.manual_seed(t * 100 + h)
    layer = getattr(nn, kind)(3, h, bidirectional=back).double()
    count, rows = (2 if kind == "LSTM" else 1), 2 if back else 1
    x = torch.randn(t, b, 3, dtype=torch.double, requires_grad=True)
    states = [torch.randn(rows, b, h, dtype=torch.double, requires_grad=True) for _ in range(count)]
    names = [f"{n}_l0" + ("_reverse" if back else "") for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
    w_x, w_h, b_x, b_h = (getattr(layer, n) for n in names)
    y, after = layer(x, tuple(states) if count > 1 else states[0])
    ends = [s[-1] for s in (after if count > 1 else (after,))]
    upstream = torch.randn(t, b, h, dtype=torch.double)
    inputs = [x, w_x, w_h, b_x, b_h, *states]
    want = torch.autograd.grad((y[..., -h:] * upstream).sum() + sum(e.square().sum() for e in ends), inputs)
    scan = LSTMScan if kind == "LSTM" else GRUScan
    got_y, *got_ends = scan.apply(nn.functional.linear(x, w_x, b_x), w_h, b_h, *(s[-1] for s in states), None, back)
    got = torch.autograd.grad((got_y * upstream).sum() + sum(e.square().sum() for e in got_ends), inputs)
    limit = 10 * 5e-5 * t
    assert (got_y - y[..., -h:]).abs().max() <= limit
    for a, e in zip(got, want):
        assert (a - e).norm() <= limit * max(1.0, float(e.norm()))


def prepared(model: nn.Module, scheme: object, x: Tensor) -> nn.Module:
    rt.prepare_qat_(model.eval(), scheme, calibration=[x])
    return model


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_recurrent_layers_take_the_calls_of_torch(kind: type[nn.LSTM]) -> None:
    torch.manual_seed(0)
    x = torch.randn(6, 4, 5)
    for options in ({}, {"batch_first": True}, {"num_layers": 2, "bidirectional": True, "bias": False}):
        holder = nn.Sequential(kind(5, 8, **options)).eval()
        float_layer = copy.deepcopy(holder[0])
        rt.prepare_qat_(holder, rt.W8A8(), calibration=[x])
        layer = holder[0]
        for given_x in (x, x[:, 0]):
            want, want_states = float_layer(given_x)
            got, states = layer(given_x)
            assert got.shape == want.shape
            assert (got - want).abs().max() < 0.1  # a few steps of 1/127
            flat = [states] if isinstance(states, Tensor) else list(states)
            wanted = [want_states] if isinstance(want_states, Tensor) else list(want_states)
            assert [s.shape for s in flat] == [s.shape for s in wanted]
            again, _ = layer(given_x, states)
            assert again.shape == want.shape
        with pytest.raises(rt.UnsupportedProblem, match="filter_fn"):
            layer(nn.utils.rnn.pack_sequence([x[:, 0]]))


def test_dropout_between_layers_is_of_training_alone() -> None:
    torch.manual_seed(0)
    x = torch.randn(5, 3, 6)
    model = prepared(nn.Sequential(nn.LSTM(6, 8, num_layers=2, dropout=0.5)), rt.W8A8(), x)
    assert torch.equal(model(x)[0], model(x)[0])
    model.train()
    assert not torch.equal(model(x)[0], model(x)[0])


def test_weights_that_are_not_finite_are_named() -> None:
    model = prepared(nn.Sequential(nn.Linear(4, 3)), rt.W8A8(), torch.randn(8, 4))
    with torch.no_grad():
        model[0].weight[1, 2] = float("nan")
    with pytest.raises(rt.FormatError, match=r"FakeQuantLinear.*weight"):
        model(torch.randn(2, 4))
