"""rt.stream of models that count their time steps, far beyond the window that is traced, and of scans in logarithms."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt

F = nn.functional
STREAMS, FEATURES, STEPS = 2, 5, 211


def times(x: Tensor) -> Tensor:
    return torch.arange(1, x.shape[1] + 1, dtype=torch.float32)[None, :, None]


def cumulative_norm(x: Tensor) -> Tensor:
    """As causal separation of sources has it: by the mean and variance of all numbers so far."""
    count = times(x) * x.shape[2]
    mean = x.sum(2, keepdim=True).cumsum(1) / count
    power = (x * x).sum(2, keepdim=True).cumsum(1) / count
    return (x - mean) / (power - mean * mean + 1e-3).sqrt()


COUNTED: dict[str, Callable[[Tensor], Tensor]] = {
    "cumulative norm": cumulative_norm,
    "running mean": lambda x: x.cumsum(1) / times(x),
    "by a factor": lambda x: x.cumsum(1) * (0.5 / times(x)),
    "backward": lambda x: x * (3.0 - 0.25 * times(x)),
    "off the running mean": lambda x: x - x.cumsum(1) / times(x),
}


class Model(nn.Module):
    def __init__(self, features: Callable[[Tensor], Tensor], memory: bool) -> None:
        super().__init__()
        self.features = features
        width = features(torch.zeros(1, 9, FEATURES)).shape[-1]
        self.memory = nn.GRU(width, 4, batch_first=True) if memory else None
        self.last = nn.Linear(4 if memory else width, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.features(x)
        return self.last(y if self.memory is None else self.memory(y)[0])


@pytest.mark.parametrize("memory", [False, True], ids=["plain", "recurrent"])
@pytest.mark.parametrize("name", COUNTED)
def test_steps_are_counted(name: str, memory: bool) -> None:
    torch.manual_seed(len(name))
    model = Model(COUNTED[name], memory).eval()
    live = rt.stream(model, torch.randn(STREAMS, FEATURES))
    x = torch.randn(STREAMS, STEPS, FEATURES)
    with torch.no_grad():
        want = model(x)
    for length in (9, STEPS):
        live.reset()
        for t in range(length):
            torch.testing.assert_close(live.step(x[:, t]), want[:, t], rtol=1e-4, atol=1e-4, msg=f"{length}, {t}")


def test_other_constants_are_a_table_that_ends() -> None:
    model = Model(lambda x: x * torch.sin(times(x)), False).eval()
    with pytest.raises(rt.UnsupportedProblem, match="context="):
        rt.stream(model, torch.randn(STREAMS, FEATURES))
    live = rt.stream(model, torch.randn(STREAMS, FEATURES), context=12)
    x = torch.randn(STREAMS, 12, FEATURES)
    for t in range(12):
        y = live.step(x[:, t])
    torch.testing.assert_close(y, model(x)[:, -1], rtol=1e-4, atol=1e-5)


class MinimalGru(nn.Module):
    """h_t = (1 - z_t) h_(t-1) + z_t g(v_t), computed for all time steps in logarithms; returned as it is, or as its logarithm."""

    def __init__(self, logarithm: bool) -> None:
        super().__init__()
        self.gate, self.value = nn.Linear(FEATURES, 6), nn.Linear(FEATURES, 6)
        self.logarithm, self.last = logarithm, nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        k, v = self.gate(x), self.value(x)
        positive = torch.where(v >= 0, (F.relu(v) + 0.5).log(), -F.softplus(-v))
        total = (-F.softplus(k)).cumsum(1)
        h = total + (-F.softplus(-k) + positive - total).logcumsumexp(1)
        return self.last(h if self.logarithm else h.exp())

    def exact(self, x: Tensor) -> Tensor:
        """Step by step in float64."""
        m = self.double()
        x = x.double()
        z, v = torch.sigmoid(m.gate(x)), m.value(x)
        g, h, ys = torch.where(v >= 0, v + 0.5, torch.sigmoid(v)), torch.zeros(len(x), 6, dtype=torch.float64), []
        for t in range(x.shape[1]):
            h = (1 - z[:, t]) * h + z[:, t] * g[:, t]
            ys.append(m.last(h.log() if self.logarithm else h))
        return torch.stack(ys, 1)


@pytest.mark.parametrize("logarithm", [False, True])
def test_scans_in_logarithms_go_on(logarithm: bool) -> None:
    """As near after 3000 steps as after a few: over a window the logarithms of the factors add up, and lose digits."""
    torch.manual_seed(7)
    model = MinimalGru(logarithm).eval()
    live = rt.stream(model, torch.randn(STREAMS, FEATURES))
    x = torch.randn(STREAMS, 3000, FEATURES)
    got = torch.stack([live.step(x[:, t]).clone() for t in range(x.shape[1])], 1)
    with torch.no_grad():
        torch.testing.assert_close(got.double(), model.exact(x), rtol=1e-4, atol=1e-4)
