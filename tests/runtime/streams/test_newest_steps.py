"""rt.stream of models that join time steps at their end: means and extremes of all, or of the last few, behind any layers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt

F = nn.functional
STREAMS, FEATURES, HIDDEN = 2, 5, 6


class Recurrent(nn.Module):
    """A recurrent layer; first: the states that it begins with, "zeros", "learned", or "half" for an LSTM whose c is zero."""

    def __init__(self, kind: type[nn.RNNBase], layers: int, first: str) -> None:
        super().__init__()
        self.layer = kind(FEATURES, HIDDEN, layers, batch_first=True)
        self.lstm = kind is nn.LSTM
        self.h, self.c = (nn.Parameter(torch.randn(layers, 1, HIDDEN)) for _ in range(2))
        self.first = first

    def begin(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor] | None:
        if self.first == "zeros":
            return None
        h = self.h.expand(-1, x.shape[0], -1).contiguous()
        c = self.c.repeat(1, x.shape[0], 1) if self.first == "learned" else torch.zeros_like(h)
        return (h, c) if self.lstm else h

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.layer(x, self.begin(x))[0]
        return made


class Conv(nn.Module):
    def __init__(self, padded: bool) -> None:
        super().__init__()
        self.conv, self.padded = nn.Conv1d(FEATURES, HIDDEN, 3), padded

    def forward(self, x: Tensor) -> Tensor:
        y = F.pad(x.transpose(1, 2), (2, 0)) if self.padded else x.transpose(1, 2)
        return torch.sigmoid(self.conv(y)).transpose(1, 2)


def layer(g: torch.Generator) -> nn.Module:
    def draw(n: int) -> int:
        return int(torch.randint(n, (1,), generator=g))

    kinds: list[type[nn.RNNBase]] = [nn.LSTM, nn.GRU, nn.RNN]
    which = draw(6)
    if which < 3:
        return Recurrent(kinds[which], 1 + draw(2), ("zeros", "learned", "half")[draw(3)])
    return Conv(which == 3) if which < 5 else nn.Sequential(nn.Linear(FEATURES, HIDDEN), nn.Tanh())


HEADS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda y: y.mean(1),
    "sum of squares": lambda y: (y * y).sum(1) * 0.01,
    "largest": lambda y: y.amax(1),
    "smallest, kept": lambda y: y.amin(1, keepdim=True)[:, 0],
    "mean of all": lambda y: y.mean((1, 2))[:, None] + y[:, -1],
    "largest of all": lambda y: y.amax((1, 2), keepdim=True)[:, 0] - y[:, -1],
    "mean of the last": lambda y: y[:, -6:].mean(1),
    "scaled mean of the last": lambda y: (y[:, -3:] * 0.5 + 1).mean(1),
    "largest of the last": lambda y: y[:, -4:].amax(1),
    "smallest and mean": lambda y: torch.cat([y[:, -2:].amin(1), y.mean(1)], -1),
    "without the first": lambda y: y[:, 2:].mean(1),
    "by pooling": lambda y: F.adaptive_avg_pool1d(y.transpose(1, 2), 1)[..., 0],
    "by largest pooling": lambda y: F.adaptive_max_pool1d(y.transpose(1, 2), 1).flatten(1),
    "flat": lambda y: y[:, -3:].flatten(1),
    "flat, turned": lambda y: y[:, -4:].transpose(1, 2).flatten(1),
    "deviation of the last": lambda y: F.pad(y, (0, 0, 4, 0)).unfold(1, 5, 1).std(-1)[:, -1],
    "variance off the mean": lambda y: F.pad(y, (0, 0, 3, 0)).unfold(1, 4, 1).var(-1, unbiased=False)[:, -1] - y[:, -1],
    "standardized": lambda y: ((y - last(y, 6).mean(-1)) / (last(y, 6).std(-1) + 1))[:, -1],
}


def last(x: Tensor, steps: int) -> Tensor:
    """[batch, time, features, steps]: of each time step it and those before."""
    return F.pad(x, (0, 0, steps - 1, 0)).unfold(1, steps, 1)


class Model(nn.Module):
    def __init__(self, name: str, seed: int) -> None:
        super().__init__()
        self.layer, self.head = layer(torch.Generator().manual_seed(seed)), HEADS[name]
        self.last = nn.Linear(self.head(torch.zeros(1, 9, HIDDEN)).shape[1], 3)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.last(self.head(self.layer(x)))
        return made


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("name", HEADS)
def test_steps_are_those_of_the_window(name: str, seed: int) -> None:
    torch.manual_seed(seed)
    model = Model(name, seed * 31 + len(name)).eval()
    live = rt.stream(model, torch.randn(STREAMS, FEATURES))
    x = torch.randn(STREAMS, 27, FEATURES)
    for again in range(2):
        live.reset()
        for t in range(x.shape[1]):
            got = live.step(x[:, t])
            if t >= 6:
                with torch.no_grad():
                    torch.testing.assert_close(got, model(x[:, : t + 1]), rtol=1e-4, atol=1e-5, msg=f"{again}, {t}")


class FinalStates(nn.Module):
    """A head over the final states of a recurrent layer, c of an LSTM among them."""

    def __init__(self, kind: type[nn.RNNBase], layers: int, read: Callable[..., Tensor]) -> None:
        super().__init__()
        self.layer, self.read = Recurrent(kind, layers, "learned"), read
        self.last = nn.Linear(read(torch.zeros(1, 1, HIDDEN), *torch.zeros(2, layers, 1, HIDDEN)).shape[1], 3)

    def forward(self, x: Tensor) -> Tensor:
        y, states = self.layer.layer(x, self.layer.begin(x))
        states = states if isinstance(states, tuple) else (states, states)
        made: Tensor = self.last(self.read(y, *states))
        return made


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("read", [
    lambda y, h, c: c[-1],
    lambda y, h, c: torch.cat([h[-1], c[-1]], -1),
    lambda y, h, c: torch.tanh(c[-1]) * y[:, -1],
    lambda y, h, c: c.transpose(0, 1).flatten(1),
])  # fmt: skip
def test_final_states_are_read(read: Callable[..., Tensor], layers: int) -> None:
    torch.manual_seed(layers)
    model = FinalStates(nn.LSTM, layers, read).eval()
    live = rt.stream(model, torch.randn(STREAMS, FEATURES))
    x = torch.randn(STREAMS, 9, FEATURES)
    for t in range(x.shape[1]):
        got = live.step(x[:, t])
    with torch.no_grad():
        torch.testing.assert_close(got, model(x), rtol=1e-4, atol=1e-5)


class Filters(nn.Module):
    """Two filters that begin with other numbers than zeros, and one that reads both."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(FEATURES, 3)

    def forward(self, x: Tensor) -> Tensor:
        mean, variance, ys = x.new_zeros(x.shape[0], FEATURES), x.new_ones(x.shape[0], FEATURES), []
        for t in range(x.shape[1]):
            mean = 0.9 * mean + 0.1 * x[:, t]
            variance = 0.8 * variance + 0.2 * (x[:, t] - mean) ** 2
            ys.append((x[:, t] - mean) / (variance + 1e-5).sqrt())
        made: Tensor = self.last(torch.stack(ys, 1))
        return made


def test_filters_may_begin_with_other_numbers_than_zeros() -> None:
    torch.manual_seed(1)
    model = Filters().eval()
    live = rt.stream(model, torch.randn(STREAMS, FEATURES))
    x = torch.randn(STREAMS, 14, FEATURES)
    for _ in range(2):
        live.reset()
        for t in range(x.shape[1]):
            with torch.no_grad():
                torch.testing.assert_close(live.step(x[:, t]), model(x[:, : t + 1])[:, -1], rtol=1e-4, atol=1e-5)
