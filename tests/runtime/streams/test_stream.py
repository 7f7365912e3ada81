"""rt.stream: step by step, equal to the last output over the full window."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

import rtaccel as rt
from tests.support.networks.sequence_models import LastTimeStep, Tcn

TIME, STREAMS = 29, 3


class Gated(nn.Module):
    """A valid convolution, a GRU and a norm, every time step returned."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.memory = nn.Conv1d(5, 8, 3, groups=1), nn.GRU(8, 11, batch_first=True)
        self.norm, self.head = nn.LayerNorm(11), nn.Linear(11, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.nn.functional.pad(x, (2, 0))
        y, _ = self.memory(self.conv(y).transpose(1, 2))
        return self.head(self.norm(y))


class Branches(nn.Module):
    """Two convolutions side by side before an LSTM, which joins channels of another dimension than the last."""

    def __init__(self) -> None:
        super().__init__()
        self.short, self.long = nn.Conv1d(5, 4, 2), nn.Conv1d(5, 7, 3, dilation=2)
        self.memory = nn.LSTM(11, 6, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(1, 2)
        pad = torch.nn.functional.pad
        y = torch.relu(torch.cat([self.short(pad(x, (1, 0))), self.long(pad(x, (4, 0)))], dim=1))
        return self.memory(y.transpose(1, 2))[0]


MODELS = {
    "lstm": (LastTimeStep, 10, "btc"),
    "gru": (lambda: LastTimeStep(nn.GRU), 10, "btc"),
    "rnn": (lambda: LastTimeStep(nn.RNN), 10, "btc"),
    "time-first": (lambda: LastTimeStep(batch_first=False), 10, "tbc"),
    "bare": (lambda: nn.LSTM(6, 9, batch_first=True), 6, "btc"),
    "tcn": (Tcn, 5, "bct"),
    "tcn-all": (lambda: Tcn(newest=False), 5, "bct"),
    "gated": (Gated, 5, "bct"),
    "branches": (Branches, 5, "btc"),
    "mlp": (lambda: nn.Sequential(nn.Linear(7, 9), nn.ELU(), nn.Linear(9, 2)), 7, "btc"),
}


def window(x: Tensor, form: str) -> Tensor:
    """InputStatistics [streams, time, features] as the model takes them."""
    return x.permute(*("btc".index(letter) for letter in form)).contiguous()


def newest(model: nn.Module, x: Tensor, form: str) -> Tensor:
    with torch.no_grad():
        y = model(window(x, form))
    y = y[0] if isinstance(y, tuple) else y
    return y if y.dim() == 2 else y[-1] if form == "tbc" else y[:, -1]


def error(got: Tensor, want: Tensor) -> float:
    return float((got - want).square().mean().sqrt() / want.square().mean().sqrt())


@pytest.mark.parametrize("name", MODELS)
def test_every_moment_equals_the_window_so_far(name: str) -> None:
    torch.manual_seed(4)
    make, features, form = MODELS[name]
    model = make().eval()
    live = rt.stream(model, torch.randn(STREAMS, features))
    x = torch.randn(STREAMS, TIME, features)
    for t in range(TIME):
        got = live.step(x[:, t].contiguous())
        # A window shorter than what the model was traced with is still one; zeros stand before the first time step.
        assert error(got, newest(model, x[:, : t + 1], form)) < 1e-5, t
    first = live.step(x[:, 0].contiguous()).clone()
    live.reset()
    again = [live.step(x[:, t].contiguous()) for t in range(TIME)][-1]
    assert torch.equal(again, got)
    assert name == "mlp" or not torch.equal(first, again)


@pytest.mark.parametrize("name", ["lstm", "gru", "tcn", "gated"])
def test_int8(name: str) -> None:
    torch.manual_seed(5)
    make, features, form = MODELS[name]
    model = make().eval()
    calibration = [window(torch.randn(16, TIME, features), form)]
    live = rt.stream(model, torch.randn(STREAMS, features), "w8a8", calibration=calibration)
    x = torch.randn(STREAMS, TIME, features)
    for t in range(TIME):
        got = live.step(x[:, t].contiguous())
    assert error(got, newest(model, x, form)) < 0.06


def test_streamed_int8_has_the_bits_of_the_window() -> None:
    """The same scales, the same integers: a convolution streamed gives what the window gives."""
    torch.manual_seed(6)
    conv = nn.Conv1d(5, 8, 3, dilation=2, padding=4)
    model = nn.Sequential(conv, Cut(4), nn.ReLU()).eval()
    calibration = [torch.randn(16, 5, TIME)]
    scheme = rt.W8A8(observer="absmax")  # the range is the same however the windows come
    live = rt.stream(model, torch.randn(STREAMS, 5), scheme, calibration=calibration)
    fast = rt.compile(model, torch.randn(1, 5, TIME), scheme, calibration=calibration)
    x = torch.randn(STREAMS, 5, TIME)
    want = fast(x)
    for t in range(TIME):
        assert torch.equal(live.step(x[:, :, t].contiguous()), want[:, :, t])


class Cut(nn.Module):
    def __init__(self, time_steps: int) -> None:
        super().__init__()
        self.time_steps = time_steps

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, : -self.time_steps]


@pytest.mark.parametrize("scheme", ["float32", "w8a8"])
@pytest.mark.parametrize("name", ["lstm", "tcn"])
def test_a_nan_stays_in_its_stream(name: str, scheme: str) -> None:
    torch.manual_seed(7)
    make, features, form = MODELS[name]
    model = make().eval()
    calibration = [window(torch.randn(16, TIME, features), form)] if scheme == "w8a8" else None
    live, clean = (rt.stream(model, torch.randn(STREAMS, features), scheme, calibration=calibration) for _ in range(2))
    x = torch.randn(STREAMS, 80, features)
    bad = x.clone()
    bad[1, 3, 0] = float("nan")
    with_nan = []
    for t in range(80):
        got, want = live.step(bad[:, t].contiguous()), clean.step(x[:, t].contiguous())
        assert torch.equal(got[[0, 2]], want[[0, 2]])
        with_nan.append(bool(got[1].isnan().any()))
    assert not any(with_nan[:3])
    assert with_nan[3]
    reach = 2 * (2 + 4 + 8)  # six convolutions of three taps: so many time steps later it has left the rings
    assert all(with_nan[3:]) if name == "lstm" else not any(with_nan[3 + reach + 1 :])
    live.reset([1])
    assert not live.step(x[:, 0].contiguous())[1].isnan().any()


@pytest.mark.parametrize("name", ["lstm", "tcn"])
def test_state_dict_carries_the_past(name: str) -> None:
    torch.manual_seed(8)
    make, features, _ = MODELS[name]
    model = make().eval()
    live, other = (rt.stream(model, torch.randn(STREAMS, features)) for _ in range(2))
    x = torch.randn(STREAMS, TIME, features)
    for t in range(7):
        live.step(x[:, t].contiguous())
    other.load_state_dict(load(save({k: v.contiguous() for k, v in live.state_dict().items()})))
    for t in range(7, TIME):
        assert torch.equal(live.step(x[:, t].contiguous()), other.step(x[:, t].contiguous()))
    smaller = rt.stream(model, torch.randn(1, features))
    with pytest.raises(rt.FormatError, match="past of 1 streams"):
        smaller.load_state_dict(live.state_dict())


def test_bound_and_reset_one_stream() -> None:
    torch.manual_seed(9)
    make, features, _ = MODELS["tcn"]
    live = rt.stream(make().eval(), torch.randn(2, features))
    x, y = torch.randn(2, features), torch.full((2, 2), float("nan"))
    step = live.bind(x, out=y)
    step()
    fresh = y.clone()
    for _ in range(9):
        step()
    live.reset(0)
    step()
    assert torch.equal(y[0], fresh[0])
    assert not torch.equal(y[1], fresh[1])
