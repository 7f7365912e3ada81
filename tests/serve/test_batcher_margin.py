"""How much earlier than its cost a batch leaves: on a clock of its own, with what batches take drawn at random."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import rtaccel as rt
from rtaccel import _native as native

DEADLINE, BASE = 1_000_000, 40_000


def begun() -> Any:
    torch.manual_seed(2)
    live = rt.stream(torch.nn.GRU(2, 3, batch_first=True).eval(), torch.randn(4, 2))
    given = {"deadline_ns": DEADLINE, "max_batch": 4, "tickets": 0, "spin_ns": 0, "late": 0, "cpu": -1, "manual": 1}
    hub: Any = native.Batcher(live._plan(), ("float32", [2]), ("float32", [3]), given)
    hub.start()
    hub.turn(11 * DEADLINE, 0)
    return hub


class Machine:
    """Batches of one sample, each of which takes what `took` holds for it."""

    def __init__(self) -> None:
        self.hub, self.now, self.x = begun(), 11 * DEADLINE, torch.zeros(2)

    def cost(self) -> tuple[float, float]:
        """Of a batch of one, and the margin."""
        a, b, margin = self.hub.stats()["cost_us"]
        return 1e3 * (a + b), 1e3 * margin

    def used(self) -> float:
        line, margin = self.cost()
        return line + min(margin, DEADLINE / 4)

    def late(self, took: np.ndarray) -> float:
        """The share of batches that end after their deadline."""
        before = self.hub.stats()["late"]
        for each in took.astype(int).tolist():
            assert self.hub.put(0, self.x, self.now) == 0
            start = self.now + DEADLINE - int(self.used())
            assert self.hub.turn(start - 20, each) == 0
            assert self.hub.turn(start + 10, each) == 1
            assert self.hub.next(0) is not None
            self.hub.give_back()
            self.now = start + 10 + each
        return float(self.hub.stats()["late"] - before) / len(took)


def times(rng: np.random.Generator, n: int, rare: float) -> np.ndarray:
    """A little noise, and now and then a delay with a long tail, as of a core that was asleep."""
    delays = np.minimum(30_000 * rng.pareto(1.5, size=n), 150_000)
    return BASE + rng.exponential(2_000, size=n) + (rng.random(n) < rare) * delays


@pytest.mark.parametrize("rare", [0.005, 0.02, 0.1])
def test_few_batches_are_late_where_some_take_long(rare: float) -> None:
    machine, rng = Machine(), np.random.default_rng(int(1000 * rare))
    machine.late(times(rng, 2_000, rare))
    assert machine.late(times(rng, 12_000, rare)) <= 1e-3
    assert machine.used() <= BASE + 30_000 + 200_000


def test_a_margin_is_not_kept_for_ever() -> None:
    machine, rng = Machine(), np.random.default_rng(3)
    machine.late(times(rng, 1_000, 0.1))
    busy = machine.used()
    machine.late(times(rng, 10_000, 0))
    calm = machine.used()
    assert calm < BASE + 35_000 < busy


def test_a_busy_machine_takes_no_more_than_a_quarter_of_the_deadline() -> None:
    machine, rng = Machine(), np.random.default_rng(4)
    machine.late(np.where(rng.random(3_000) < 0.01, 50 * DEADLINE, BASE))
    line, margin = machine.cost()
    assert margin > DEADLINE / 4 * 0.9
    assert machine.used() <= line + DEADLINE / 4 + 1
    machine.late(np.full(10_000, BASE))
    assert machine.used() < BASE + 35_000
