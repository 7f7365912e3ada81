"""Convolutions and recurrent layers rounded for their inputs: what calibration shows of them, and what that is worth."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import rtaccel as rt
from rtaccel.convert.quantization.call_statistics import CallStatistics
from rtaccel.core.errors import FormatError

aten = torch.ops.aten


class Call:
    """As much of a graph's node as an observer looks at."""

    def __init__(self, target: Any) -> None:
        self.name, self.target = "call", target


def off(fast: Any, model: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        want = model(x)
    return float((fast(x) - want).norm() / want.norm())


def moments(rows: Tensor) -> tuple[Tensor, Tensor]:
    rows = rows.double()
    return rows.T @ rows / len(rows), rows.mean(0)


@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize(("stride", "padding", "dilation"), [(1, 1, 1), (2, 0, 1), (1, 2, 2), ((2, 1), (0, 1), 1)])
def test_windows_of_images_are_what_a_convolution_multiplies(
    groups: int, stride: Any, padding: Any, dilation: int
) -> None:
    """Every column of a weight alone gives the sum over the windows that its element of them would."""
    torch.manual_seed(0)
    x, weight = torch.randn(3, 6, 9, 8), torch.randn(12, 6 // groups, 3, 3)
    seen = CallStatistics()
    seen.observe(Call(aten.conv2d.default), (x, weight, None, stride, padding, dilation, groups), None)
    k = weight[0].numel()
    for group, part in enumerate(seen.sums["weight"]):
        found = part.inputs()
        assert found is not None
        unit = torch.eye(k).reshape(k, *weight.shape[1:])
        own = x[:, group * (6 // groups) : (group + 1) * (6 // groups)]
        columns = F.conv2d(own, unit, None, stride, padding, dilation).transpose(0, 1).reshape(k, -1).T
        second, mean = moments(columns)
        assert torch.allclose(found.second, second, atol=1e-6) and torch.allclose(found.mean, mean, atol=1e-6)
        assert found.rows == len(columns)


@pytest.mark.parametrize("padding", ["same", "valid", 2])
def test_windows_of_sequences(padding: Any) -> None:
    x, weight = torch.randn(4, 5, 20), torch.randn(7, 5, 4)
    seen = CallStatistics()
    target = aten.conv1d.padding if isinstance(padding, str) else aten.conv1d.default
    seen.observe(Call(target), (x, weight, None, 1, padding, 2, 1), None)
    unit = torch.eye(20).reshape(20, 5, 4)
    columns = F.conv1d(x, unit, None, 1, padding, 2).transpose(0, 1).reshape(20, -1).T
    found = seen.sums["weight"][0].inputs()
    assert found is not None and torch.allclose(found.second, moments(columns)[0], atol=1e-6)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("cls", [nn.LSTM, nn.GRU])
def test_states_before_each_step_are_seen(cls: Any, batch_first: bool, bidirectional: bool) -> None:
    """Against the cells in a loop of their own, two layers, from a state that is not zero."""
    torch.manual_seed(0)
    time, batch, width, hidden, directions = 6, 3, 5, 7, 1 + bidirectional
    layer = cls(width, hidden, 2, batch_first=batch_first, bidirectional=bidirectional).eval()
    x = torch.randn(time, batch, width)
    state = torch.randn(2 * directions, batch, hidden)
    hx = [state, torch.randn_like(state)] if cls is nn.LSTM else state
    target = aten.lstm.input if cls is nn.LSTM else aten.gru.input
    given = x.transpose(0, 1) if batch_first else x
    params = [p.detach() for p in layer.parameters()]
    seen = CallStatistics()
    with torch.no_grad():
        seen.observe(Call(target), (given, hx, params, True, 2, 0.0, False, bidirectional, batch_first), None)
        inputs = x
        for index in range(2):
            made = []
            for direction in range(directions):
                suffix = f"l{index}" + "_reverse" * direction
                cell = (nn.LSTMCell if cls is nn.LSTM else nn.GRUCell)(inputs.shape[-1], hidden)
                for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                    getattr(cell, name).copy_(getattr(layer, f"{name}_{suffix}"))
                at = index * directions + direction
                now: Any = (hx[0][at], hx[1][at]) if cls is nn.LSTM else hx[at]
                before, after = [], []
                for t in range(time)[:: -1 if direction else 1]:
                    before.append(now[0] if cls is nn.LSTM else now)
                    now = cell(inputs[t], now)
                    after.append(now[0] if cls is nn.LSTM else now)
                for name, rows in (
                    (f"weight_hh_{suffix}", torch.cat(before)),
                    (f"weight_ih_{suffix}", inputs.flatten(0, 1)),
                ):
                    found = seen.sums[name][0].inputs()
                    assert found is not None and torch.allclose(found.second, moments(rows)[0], atol=1e-5)
                made.append(torch.stack(after[:: -1 if direction else 1]))
            inputs = torch.cat(made, -1)


class Recurrent(nn.Module):
    def __init__(self, cls: Any, layers: int = 1, bidirectional: bool = False) -> None:
        super().__init__()
        self.inner = cls(24, 48, layers, batch_first=True, bidirectional=bidirectional)
        self.head = nn.Linear(48 * (1 + bidirectional), 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.inner(x)[0][:, -1])


def sequences(count: int) -> Tensor:
    """Features that follow a few slow signals, as sensors do."""
    g = torch.Generator().manual_seed(1)
    slow = 0.3 * torch.randn(count, 20, 5, generator=g).cumsum(1)
    return slow @ torch.randn(5, 24, generator=g) + 0.3 * torch.randn(count, 20, 24, generator=g)


@pytest.mark.parametrize(
    ("cls", "layers", "both"), [(nn.LSTM, 1, False), (nn.GRU, 1, False), (nn.LSTM, 2, False), (nn.GRU, 2, True)]
)
def test_recurrent_layers_in_int4_lose_far_less(cls: Any, layers: int, both: bool) -> None:
    torch.manual_seed(0)
    model, x = Recurrent(cls, layers, both).eval(), sequences(400)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1.5)
    made = {
        r: rt.compile(model, (x[:1],), rt.W4A8(rounding=r), calibration=[x[:200]]) for r in ("nearest", "bias", "gptq")
    }
    errors = {r: off(fast, model, x[200:]) for r, fast in made.items()}
    assert errors["gptq"] < 0.75 * errors["nearest"]
    assert errors["bias"] < 1.05 * errors["nearest"]
    assert made["gptq"].weight_bytes == made["nearest"].weight_bytes
    assert "to the nearest" not in made["gptq"].explain()
    eight = [
        off(rt.compile(model, (x[:1],), rt.W8A8(rounding=r), calibration=[x[:200]]), model, x[200:])
        for r in ("nearest", "gptq")
    ]
    assert eight[1] < 1.02 * eight[0]


def test_cells_in_a_loop_share_their_rounding() -> None:
    """The same weights in every step are rounded once, for the inputs of all steps."""

    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = nn.LSTMCell(24, 24)

        def forward(self, x: Tensor) -> Tensor:
            h = c = torch.zeros_like(x[:, 0])
            for t in range(4):
                h, c = self.cell(x[:, t], (h, c))
            return h

    torch.manual_seed(0)
    model, x = Loop().eval(), sequences(300)[:, :4]
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(2)
    nearest, gptq = (
        rt.compile(model, (x[:1],), rt.W4A8(rounding=r), calibration=[x[:150]]) for r in ("nearest", "gptq")
    )
    assert off(gptq, model, x[150:]) < 0.8 * off(nearest, model, x[150:])
    assert gptq.weight_bytes == nearest.weight_bytes


def convolutions() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU(), nn.Conv2d(24, 24, 3, groups=24, padding=1, stride=2),
        nn.ReLU(), nn.Conv2d(24, 32, 1), nn.ReLU(), nn.Conv2d(32, 16, 3, groups=4, padding="same"), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 8),
    ).eval()  # fmt: skip
    with torch.no_grad():
        model[1].running_mean.normal_()
        model[1].running_var.uniform_(0.5, 2)
    return model


def test_every_convolution_is_rounded_for_its_inputs() -> None:
    """Plain, with a norm behind, depthwise, of one position and in groups; in a network with a mean to take up."""
    model = convolutions()
    g = torch.Generator().manual_seed(2)
    x = F.interpolate(torch.randn(300, 3, 4, 4, generator=g), 12, mode="bilinear") + 0.5
    made = {
        r: rt.compile(model, (x[:1],), rt.W8A8(rounding=r), calibration=[x[:150]]) for r in ("nearest", "bias", "gptq")
    }
    for rounding in ("bias", "gptq"):
        assert "to the nearest" not in made[rounding].explain()
    errors = {r: off(fast, model, x[150:]) for r, fast in made.items()}
    assert errors["gptq"] < errors["nearest"] and errors["bias"] < errors["nearest"]


def test_weights_of_balanced_convolutions_are_rounded_for_divided_inputs() -> None:
    """Factors far apart: statistics of the input as it was would round the wrong columns."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(8, 16, 3), nn.ReLU(), nn.Conv1d(16, 16, 3)).eval()
    with torch.no_grad():
        uneven = torch.exp(1.5 * torch.randn(16))
        model[0].weight.mul_(uneven[:, None, None])
        model[0].bias.mul_(uneven)
        model[2].weight.div_(uneven[:, None])
    x = torch.randn(200, 8, 30).cumsum(-1) * 0.3
    scheme = rt.W8A8(rounding="gptq", balance="activations")
    plain = off(rt.compile(model, (x[:1],), rt.W8A8(balance="activations"), calibration=[x[:100]]), model, x[100:])
    assert off(rt.compile(model, (x[:1],), scheme, calibration=[x[:100]]), model, x[100:]) < plain


def test_a_product_behind_an_image_is_rounded_too() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 8)).eval()
    x = F.interpolate(torch.randn(900, 2, 3, 3), 6, mode="bilinear")
    errors = [off(rt.compile(model, (x[:1],), {"3": rt.W4A8(rounding=r)}, calibration=[x[:600]]), model, x[600:])
              for r in ("nearest", "gptq")]  # fmt: skip
    assert errors[1] < 0.8 * errors[0]


def test_what_is_not_shown_is_noted_and_missing_data_refused() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.ConvTranspose1d(4, 6, 4, stride=2), nn.ReLU(), nn.Conv1d(6, 5, 3)).eval()
    x = torch.randn(50, 4, 16)
    fast = rt.compile(model, (x[:1],), rt.W8A8(rounding="gptq"), calibration=[x])
    assert "0 is rounded to the nearest" in fast.explain() and "2 is rounded" not in fast.explain()
    with pytest.raises(FormatError, match="calibration"):
        rt.compile(model, (x[:1],), rt.W8A8(rounding="gptq"))
    with pytest.raises(FormatError, match="calibration"):
        rt.compile(Recurrent(nn.GRU).eval(), (sequences(2)[:1],), rt.W4A8(rounding="gptq"))


def test_a_stream_has_the_same_weights() -> None:
    torch.manual_seed(0)

    class Causal(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.head = nn.LSTM(24, 32), nn.Linear(32, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.inner(x)[0])

    model, x = Causal().eval(), sequences(200).transpose(0, 1)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1.5)
        want = model(x[:, 150:151])
    errors = []
    for rounding in ("nearest", "gptq"):
        live = rt.stream(model, x[0, :1], rt.W4A8(rounding=rounding), calibration=[x[:, :150]])
        got = torch.stack([live.step(x[t, 150:151]) for t in range(len(x))])
        errors.append(float((got - want).norm() / want.norm()))
    assert errors[1] < 0.7 * errors[0]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("scheme", [rt.W4A16, rt.W8A16, rt.W4A8, rt.W8A8])
@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(8, 6),
        nn.Conv1d(8, 6, 3, padding=1),
        nn.LSTM(8, 6),
        nn.GRU(8, 6, bidirectional=True),
        nn.LSTMCell(8, 6),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_data_with_a_nan_round_no_weight(layer: nn.Module, scheme: type[rt.W8A8], bad: float) -> None:
    x = torch.randn(5, 8) if isinstance(layer, nn.Linear | nn.LSTMCell) else torch.randn(2, 8, 8)
    with_nan = x.clone()
    with_nan.view(-1)[int(torch.randint(x.numel(), ()))] = bad
    with pytest.raises(FormatError, match="a NaN or infinity"):
        rt.compile(layer.eval(), (x,), scheme(rounding="gptq"), calibration=[x, with_nan])
