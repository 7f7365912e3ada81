"""rt.stream of loops over time steps that Python wrote out: a step is one body, whatever the formula, equal to the window's."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt
from tests.runtime.streams.test_samples import rms_error
from tests.support.networks.written_loops import KINDS, WrittenLoop

pytestmark = pytest.mark.turns(6)
STREAMS, STEPS = 2, 9
SMOOTH = tuple(kind for kind in KINDS if kind != "count")
"""Kinds of loops whose results a rounding of what comes in changes little."""


def follow(model: WrittenLoop, live: rt.StreamModel, x: Tensor, limit: float) -> None:
    """Steps over x [streams, time, features] beside the windows so far, from a reset of all streams, and of one alone."""
    live.reset()
    got, want, begins = [], [], [0] * len(x)
    for t in range(x.shape[1]):
        if t == 5:
            live.reset([1])
            begins[1] = t
        got.append(live.step(x[:, t].contiguous()))
        want.append(torch.cat([model.newest(x[s : s + 1, begins[s] : t + 1]) for s in range(len(x))]))
    assert got[0].shape == want[0].shape
    assert rms_error(torch.stack(got).double(), torch.stack(want)) < limit


def drawn(seed: int, kinds: tuple[str, ...] = KINDS) -> tuple[WrittenLoop, Tensor]:
    torch.manual_seed(seed)
    model = WrittenLoop(random.Random(seed), kinds).eval()
    return model, torch.randn(STREAMS, STEPS, model.features) * 1.5


@pytest.mark.parametrize("seed", range(48))
def test_random_loops(seed: int) -> None:
    model, x = drawn(seed)
    live = rt.stream(model, x[:, 0])
    follow(model, live, x, 2e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_goes_on_elsewhere(kind: str, tmp_path: Path) -> None:
    """From its state dict, from a file, from one stream alone, and as a copy: the same bits."""
    model, x = drawn(100 + KINDS.index(kind), (kind,))
    live = rt.stream(model, x[:, 0])
    for t in range(5):
        live.step(x[:, t].contiguous())
    again = rt.stream(model, x[:, 0])
    again.load_state_dict(live.state_dict())
    loaded = rt.load(rt.save(live, tmp_path / "loop.rta", states=True))
    turned = rt.stream(model, x[:, 0])
    for s in range(STREAMS):
        turned.load_stream(STREAMS - 1 - s, live.save_stream(s))
    for t in range(5, STEPS):
        step = x[:, t].contiguous()
        want = live.step(step)
        assert torch.equal(want, again.step(step)) and torch.equal(want, loaded(step))
        assert torch.equal(want.flip(0), turned.step(step.flip(0)))


@pytest.mark.parametrize("seed", range(6))
def test_some_streams_make_a_step(seed: int) -> None:
    model, x = drawn(200 + seed, SMOOTH)
    live, alone = rt.stream(model, x[:, 0]), rt.stream(model, x[:, 0])
    for t in range(STEPS):
        step = x[:, t].contiguous()
        want = alone.step(step)
        for s in reversed(range(STREAMS)):
            torch.testing.assert_close(live.step(step[s : s + 1], streams=[s]), want[s : s + 1], rtol=1e-4, atol=1e-5)


def over(
    formula: Callable[[Tensor, Tensor, int], Tensor], order: Callable[[int], list[int]] = lambda n: list(range(n))
) -> nn.Module:
    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.by_step = nn.Parameter(torch.randn(80, 4))

        def forward(self, x: Tensor) -> Tensor:
            h, ys = torch.zeros(len(x), 4), []
            for t in order(x.shape[1]):
                h = torch.tanh(formula(h, x, t) + (self.by_step[t] if formula is WEIGHTS else 0))
                ys.append(h)
            return torch.stack(ys, 1)

    return Loop().eval()


def WEIGHTS(h: Tensor, x: Tensor, t: int) -> Tensor:  # noqa: N802
    return 0.5 * h + x[:, t]


BROKEN: dict[str, tuple[nn.Module, str]] = {
    "the number of the step": (over(lambda h, x, t: h + x[:, t] * (t + 1)), "differ from step to step"),
    "weights of the step": (over(WEIGHTS), "weights or numbers that differ"),
    "backward": (over(lambda h, x, t: h + x[:, t], lambda n: list(range(n))[::-1]), "backward in time"),
    "other steps": (over(lambda h, x, t: h + x[:, min(t + 1, x.shape[1] - 1)]), "each read their own"),
    "the first step": (over(lambda h, x, t: h + x[:, t] - x[:, 0]), "in every step"),
    "two formulas": (over(lambda h, x, t: h.sin() + x[:, t] if t % 2 else h * x[:, t]), "different numbers of values"),
    "all steps": (over(lambda h, x, t: h + x[:, t] - x.mean(1)), "time"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_bodies_that_differ_are_refused(name: str) -> None:
    model, why = BROKEN[name]
    with pytest.raises(rt.UnsupportedProblem, match=why):
        rt.stream(model, torch.randn(2, 4))


@pytest.mark.parametrize("seed", range(10))
def test_whole_numbers(seed: int) -> None:
    """W8A8, with ranges that calibration windows show of all steps, and W4A16."""
    model, x = drawn(300 + seed, SMOOTH)
    windows = [model.windows(8, 20) for _ in range(3)]
    live = rt.stream(model, x[:, 0], "w8a8", calibration=windows)
    follow(model, live, x, 0.2)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("seed", range(4))
def test_a_nan_stays_in_its_stream(seed: int, bad: float) -> None:
    """What is not finite leaves the other streams as they are, and becomes of its own what it becomes of the model's."""
    model, x = drawn(400 + seed, ("plain", "gated", "leaky", "liquid", "cell"))
    live, clean = rt.stream(model, x[:, 0]), rt.stream(model, x[:, 0])
    nonfinite = x.clone()
    nonfinite[1, 3, 0] = bad
    for t in range(STEPS):
        want = clean.step(x[:, t].contiguous())
        got = live.step(nonfinite[:, t].contiguous())
        assert torch.equal(got[0], want[0])
        own = model.newest(nonfinite[1:2, : t + 1])[0]
        assert own.isnan().all() or t < 3 or bad == float("inf")
        torch.testing.assert_close(got[1].double(), own, rtol=1e-4, atol=1e-4, equal_nan=True)
    live.reset([1])
    clean.reset([1])
    step = x[:, 0].contiguous()
    assert torch.equal(live.step(step), clean.step(step))


def test_weights_that_a_plain_dict_holds_too() -> None:
    """torch.export has such a weight anew at each time step."""

    class Cell(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_parameter("w", nn.Parameter(torch.randn(4, 4) / 2))
            self.kept = {"w": self.w, "b": torch.randn(4)}
            self.positive = nn.Softplus()

        def forward(self, x: Tensor) -> Tensor:
            h, ys = torch.zeros(len(x), 4), []
            for t in range(x.shape[1]):
                h = torch.tanh(h @ self.positive(self.kept["w"]) + x[:, t] + self.kept["b"])
                ys.append(h)
            return torch.stack(ys, 1)

    model, x = Cell().eval(), torch.randn(1, 9, 4)
    live = rt.stream(model, x[:, 0])
    got = torch.stack([live.step(x[:, t].contiguous()) for t in range(9)], 1)
    torch.testing.assert_close(got, model(x), rtol=1e-4, atol=1e-5)
