"""A model that torch.export cannot capture: its layers are swapped where it runs with them, and it is never changed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import rtaccel as rt
from rtaccel.convert.module_swap import benchmark
from rtaccel.runtime.eager_fallback import UncapturedModel
from tests.support.networks.swapped_models import snapshot, unchanged


@pytest.fixture(autouse=True)
def _every_swap_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "compare", lambda before, after, x: benchmark.Compared(2.0, 1.0))


class Branching(nn.Module):
    """What keeps it from being captured: a branch on a value."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = nn.LSTM(8, 12, batch_first=True)
        self.head, self.out = nn.Linear(12, 12), nn.Linear(12, 3)

    def last(self, x: Tensor) -> Tensor:
        y, _ = self.memory(x)
        return y[:, -1] if float(x.sum()) > -1e9 else y[:, 0]

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.head(self.last(x)).relu())


class Flattens(Branching):
    def forward(self, x: Tensor) -> Tensor:
        self.memory.flatten_parameters()
        return super().forward(x)


class ReadsWeight(Branching):
    """A head of which only the weight is used, as tied ones are."""

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.linear(self.last(x), self.head.weight, self.head.bias))


class ReadsMemory(Branching):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.memory.weight_hh_l0.sum() * 0


class ReadsSizes(Branching):
    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(self.memory.num_layers, len(x), self.memory.hidden_size)
        y, _ = self.memory(x, (h, h))
        return super().forward(x) + y.mean() * 0 + self.head.in_features * 0


class Counts(Branching):
    """Its answer depends on how often it was called."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x) + self.calls


KEPT = {
    Branching: set(), Flattens: set(), ReadsWeight: {"head"}, ReadsMemory: {"memory"}, ReadsSizes: set(), Counts: set(),
}  # fmt: skip


def wrapped(model: nn.Module, how: str) -> UncapturedModel:
    x = torch.randn(2, 5, 8)
    data: dict[str, Callable[[], Any]] = {
        "calibrated": lambda: [x, torch.randn(4, 5, 8)],
        "generator": lambda: (b for b in [x, torch.randn(4, 5, 8)]),
        "example": lambda: None,
        "first call": lambda: None,
    }
    return UncapturedModel(model, "a branch", "w8a8", data[how](), (x,) if how == "example" else None)


@pytest.mark.parametrize("how", ["calibrated", "generator", "example", "first call"])
@pytest.mark.parametrize("kind", KEPT)
def test_swaps_that_break_the_model_are_kept(kind: type[Branching], how: str) -> None:
    model = kind().eval()
    before, x = snapshot(model), torch.randn(3, 6, 8)
    want = copy.deepcopy(model)(x)
    fast = wrapped(model, how)
    got = fast(x)
    assert (got - want).norm() < 0.2 * want.norm()
    kept = {e.fqn for e in fast.report if e.action == "kept"}
    assert kept == KEPT[kind]
    said = ("does not run with it swapped", "no calibration batch reached it")
    assert all(any(s in e.reason for s in said) for e in fast.report if e.action == "kept")
    assert all(name in fast.explain() for name in kept)
    assert type(fast.model.memory).__name__ == ("LSTM" if "memory" in kept else "QuantLSTM")
    assert unchanged(model, before) and getattr(model, "calls", 0) == 0
    assert getattr(fast.model, "calls", 1) == 1  # neither calibration nor the trial counted


@pytest.mark.parametrize("kind", KEPT)
def test_through_compile(kind: type[Branching]) -> None:
    model, x = kind().eval(), torch.randn(2, 5, 8)
    before, want = snapshot(model), copy.deepcopy(model)(x)
    fast = rt.compile(model, (x,), "w8a8", calibration=[x])
    assert isinstance(fast, UncapturedModel)
    assert (fast(x) - want).norm() < 0.2 * want.norm()
    assert unchanged(model, before)


def test_wrong_arguments_keep_all_swaps() -> None:
    fast = wrapped(Branching().eval(), "first call")
    with pytest.raises(rt.ShapeError):
        fast(torch.randn(2, 5, 9))
    assert fast.report.swapped == 3
    assert fast(torch.randn(2, 5, 8)).shape == (2, 3)


def test_a_model_that_cannot_be_copied() -> None:
    model = Branching().eval()
    model.history = torch.ones(2, requires_grad=True) * 2  # no leaf: deepcopy refuses it
    with pytest.raises(rt.UnsupportedProblem, match="cannot be copied"):
        UncapturedModel(model, "a branch", "w8a8", None)


def test_a_lone_layer_stays_float() -> None:
    class Odd(nn.Linear):
        pass

    layer, x = Odd(4, 4).eval(), torch.randn(2, 4)
    fast = UncapturedModel(layer, "a branch", "w8a8", None)
    assert torch.equal(fast(x), layer(x)) and "itself a layer" in fast.explain()
    assert fast.explain(measure=False) == fast.explain()


def test_an_object_that_holds_a_tensor_with_a_history() -> None:
    """As a distribution of stable-baselines3 keeps the noise that it drew. It is copied detached."""

    class Held:
        def __init__(self, noise: torch.Tensor) -> None:
            self.noise, self.of = noise, {"again": [noise]}

    class Policy(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) + self.held.of["again"][0]  # type: ignore[operator,index,union-attr]

    model, x = Policy(4, 3).eval(), torch.randn(2, 4)
    model.held = Held(model.bias * 2)  # type: ignore[assignment]
    fast = rt.compile(model, (x,), strict=True)
    torch.testing.assert_close(fast(x), model(x).detach())
    assert model.held.noise.requires_grad  # type: ignore[union-attr]
