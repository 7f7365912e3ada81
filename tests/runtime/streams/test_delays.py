"""rt.stream of networks that look ahead: a result comes so many steps late, and what meets waits for the latest."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

import rtaccel as rt
from tests.runtime.streams.test_samples import rms_error

STREAMS, STEPS, FEATURES = 2, 26, 6


class Around(nn.Module):
    """Over [batch, channels, time]. ahead: rows that a result looks ahead."""

    def __init__(self, rng: random.Random, channels: int, made: int) -> None:
        super().__init__()
        taps, dilation = rng.choice((1, 2, 3, 5)), rng.choice((1, 1, 2))
        reach = (taps - 1) * dilation
        self.ahead = rng.randint(0, reach)
        self.before = reach - self.ahead
        self.conv = nn.Conv1d(channels, made, taps, dilation=dilation, groups=rng.choice((1, 1, 2)))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.conv(pad(x, (self.before, self.ahead))))


WHOLE_STEPS = ("residual", "gate", "cat", "two", "norm")
"""Ways in which values meet that hold of steps of several rows too."""

KINDS = (*WHOLE_STEPS, "before", "change")


class Block(nn.Module):
    """Layers whose results meet others that look ahead less: sums, products, concatenations, what was before."""

    def __init__(self, rng: random.Random, channels: int, kinds: tuple[str, ...]) -> None:
        super().__init__()
        self.kind = rng.choice(kinds)
        self.first, self.second = Around(rng, channels, channels), Around(rng, channels, channels)
        self.mix, self.norm = nn.Conv1d(2 * channels, channels, 1), nn.LayerNorm(channels)
        self.steps = rng.choice((1, 2))
        self.ahead = max(self.first.ahead, self.second.ahead if self.kind in ("two", "gate", "cat") else 0)
        if self.kind == "before":  # of what it looks ahead, only what was
            self.ahead = max(self.first.ahead - self.steps, 0)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        if self.kind == "residual":
            return torch.relu(x + y)
        if self.kind == "gate":
            return y * torch.sigmoid(self.second(x))
        if self.kind == "cat":
            return self.mix(torch.cat([self.second(x), y], 1))
        if self.kind == "two":
            return torch.relu(x - 0.5 * y + self.second(x))
        if self.kind == "norm":
            return x + self.norm(y.transpose(1, 2)).transpose(1, 2)
        earlier = pad(y, (self.steps, 0))[..., : -self.steps]
        return x - earlier if self.kind == "before" else torch.relu(y - 0.7 * earlier)


class Ahead(nn.Module):
    def __init__(self, rng: random.Random, kinds: tuple[str, ...] = KINDS) -> None:
        super().__init__()
        self.time_first, width = rng.random() < 0.5, rng.choice((4, 6, 8))
        self.first = Around(rng, FEATURES, width)
        self.blocks = nn.Sequential(*(Block(rng, width, kinds) for _ in range(rng.randint(1, 3))))
        self.memory = nn.GRU(width, 5, batch_first=True) if rng.random() < 0.4 else None
        self.head = nn.Linear(5 if self.memory is not None else width, 3)
        self.ahead = self.first.ahead + sum(block.ahead for block in self.blocks)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.first(x.transpose(1, 2) if self.time_first else x)).transpose(1, 2)
        x = self.memory(x)[0] if self.memory is not None else x
        y = self.head(x)
        return y if self.time_first else (y.transpose(1, 2) * 3).log_softmax(1)

    def windows(self, count: int = STREAMS, steps: int = STEPS) -> Tensor:
        return torch.randn(count, *((steps, FEATURES) if self.time_first else (FEATURES, steps)))


def follow(model: Ahead, live: rt.StreamModel, delay: int, rows: int, limit: float) -> None:
    x = model.windows()
    with torch.no_grad():
        want = model(x)
    time = 1 if model.time_first else 2
    steps = x.split(rows, time) if rows > 1 else x.unbind(time)
    want = want if model.time_first else want.transpose(1, 2)
    got = [live.step(step.contiguous()).reshape(STREAMS, rows, -1) for step in steps]
    assert rms_error(torch.cat(got[delay:], 1), want[:, : STEPS - rows * delay]) < limit


@pytest.mark.parametrize("seed", range(32))
def test_random_networks(seed: int) -> None:
    torch.manual_seed(seed)
    rng = random.Random(seed)
    model = Ahead(rng).eval()
    if model.ahead:
        with pytest.raises(
            rt.UnsupportedProblem, match=f"still to come: it comes {model.ahead} late, as with delay={model.ahead}"
        ):
            rt.stream(model, model.windows().select(1 if model.time_first else 2, 0))
    delay = model.ahead + rng.choice((0, 0, 0, 2))
    live = rt.stream(model, model.windows().select(1 if model.time_first else 2, 0), delay=delay)
    assert "verified against windows" in live.explain(verbose=False, measure=False)
    follow(model, live, delay, 1, 1e-5)


@pytest.mark.parametrize("seed", range(8))
def test_several_rows_a_step(seed: int) -> None:
    """A step waits for whole steps. What was less than a step ago is refused."""
    torch.manual_seed(seed)
    model = Ahead(random.Random(100 + seed), WHOLE_STEPS).eval()
    delay = model.ahead  # at least as much as it takes
    live = rt.stream(model, model.windows(steps=2), delay=delay)
    follow(model, live, delay, 2, 1e-5)


@pytest.mark.parametrize("seed", range(6))
def test_whole_numbers(seed: int) -> None:
    torch.manual_seed(seed)
    model = Ahead(random.Random(200 + seed)).eval()
    windows = [model.windows(8, 60) for _ in range(3)]
    live = rt.stream(
        model, windows[0][:STREAMS].select(1 if model.time_first else 2, 0), "w8a8", windows, delay=model.ahead
    )
    follow(model, live, model.ahead, 1, 0.15)


def test_a_delay_is_a_number_of_steps() -> None:
    for wrong in (-1, 1.0, True):
        with pytest.raises(rt.ShapeError, match="delay="):
            rt.stream(nn.GRU(3, 4, batch_first=True).eval(), torch.randn(1, 3), delay=wrong)  # type: ignore[arg-type]
