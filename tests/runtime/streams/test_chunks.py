"""rt.stream of networks with strides over features: a step is several rows, in either order of the model's dimensions."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

import rtaccel as rt
from tests.runtime.streams.test_samples import Residual, rms_error

STREAMS, STEPS, FEATURES = 2, 15, 5


class Front(nn.Module):
    """Windows of features: strided convolutions and pooling, then what has a memory, and a head over one or all of its rows."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self.time_first, self.newest = rng.random() < 0.5, rng.random() < 0.5
        self.before, self.layers, channels, self.stride = list[int](), nn.ModuleList(), FEATURES, 1
        for _ in range(rng.randint(1, 3)):
            kind, stride = rng.choice(("conv", "conv", "grouped", "residual", "avg", "max")), rng.choice((1, 2, 3))
            taps, dilation = rng.randint(stride, stride + 3), rng.choice((1, 1, 2))
            made = channels * 2 if kind == "grouped" else rng.choice((4, 7, 8))
            if kind in ("avg", "max"):
                self.layers.append((nn.AvgPool1d if kind == "avg" else nn.MaxPool1d)(stride, stride))
                self.before.append(0)
            elif kind == "residual":
                self.layers.append(Residual(channels, taps, dilation))
                self.before.append(0)
                continue
            else:
                groups = channels if kind == "grouped" else 1
                self.layers.append(nn.Conv1d(channels, made, taps, stride, dilation=dilation, groups=groups))
                self.before.append((taps - 1) * dilation + 1 - stride)
                channels = made
            self.stride *= stride
        self.norm, self.memory = nn.LayerNorm(channels), None
        if rng.random() < 0.6:
            self.memory = rng.choice((nn.GRU, nn.LSTM))(channels, 6, batch_first=True)
        self.head = nn.Linear(6 if self.memory is not None else channels, 3)
        self.rows = self.stride * rng.choice((1, 1, 2, 3))  # of a call

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(1, 2) if self.time_first else x
        for before, layer in zip(self.before, self.layers):
            x = torch.relu(layer(pad(x, (before, 0)) if before else x))
        x = self.norm(x.transpose(1, 2))
        x = self.memory(x)[0] if self.memory is not None else x
        y = self.head(x[:, -1] if self.newest else x)
        return y if self.time_first or self.newest else y.transpose(1, 2).log_softmax(1)

    def example(self) -> Tensor:
        return torch.randn(STREAMS, *((self.rows, FEATURES) if self.time_first else (FEATURES, self.rows)))

    def window(self, steps: list[Tensor]) -> Tensor:
        return torch.cat(steps, 1 if self.time_first else 2)


def want(model: Front, steps: list[Tensor]) -> Tensor:
    with torch.no_grad():
        y = model(model.window(steps))
    if model.newest:
        return y
    y = (y if model.time_first else y.transpose(1, 2))[:, -model.rows // model.stride :]
    return y[:, 0] if y.shape[1] == 1 else y


@pytest.mark.parametrize("seed", range(40))
def test_random_fronts(seed: int) -> None:
    torch.manual_seed(seed)
    model = Front(random.Random(seed)).eval()
    live, steps = rt.stream(model, model.example()), list[Tensor]()
    for _ in range(STEPS):
        steps.append(model.example())
        y, exact = live.step(steps[-1]), want(model, steps)
        assert y.shape == exact.shape
        assert rms_error(y, exact) < 1e-5
    assert "verified against windows" in live.explain(verbose=False, measure=False) or model.newest


@pytest.mark.parametrize("seed", [1, 4, 7, 12])
def test_whole_numbers_and_a_file(seed: int, tmp_path) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(seed)
    model = Front(random.Random(seed)).eval()
    windows = [model.window([torch.cat([model.example()] * 2) for _ in range(STEPS)]) for _ in range(3)]
    live = rt.stream(model, model.example(), "w8a8", calibration=windows)
    rt.save(live, tmp_path / "live.rta")
    loaded, steps = rt.load(tmp_path / "live.rta"), list[Tensor]()
    for _ in range(STEPS):
        steps.append(model.example())
        y = live.step(steps[-1])
        assert torch.equal(loaded.step(steps[-1]), y)
    assert rms_error(y, want(model, steps)) < 0.1


def test_what_does_not_fit_says_how_many_rows() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(5, 4, 2, 2), nn.ReLU()).eval()
    with pytest.raises(
        rt.UnsupportedProblem, match=r"stride 2, for each time step of 1 rows: pass 2, .* \[streams, rows, features\]"
    ):
        rt.stream(model, torch.randn(1, 5))
    with pytest.raises(rt.UnsupportedProblem, match="stride 2, for each time step of 3 rows"):
        rt.stream(model, torch.randn(1, 5, 3))
    with pytest.raises(rt.ShapeError, match="whole number of steps"):
        rt.stream(model, torch.randn(1, 5, 2), "w8a8", calibration=[torch.randn(2, 5, 25)])
    live = rt.stream(model, torch.randn(1, 5, 2))
    with pytest.raises(rt.ShapeError, match=r"\[1, 2, 5\]"):
        live.step(torch.randn(1, 2, 5))
