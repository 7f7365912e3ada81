"""Ways that take different times are told apart, equal ones are tied, and losses count in the mean."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator

import numpy as np
import pytest

from bench.split.contest import LOOKS, T_99, Way, run, slower_by

stats = pytest.importorskip("scipy.stats", reason="needs the package scipy")


@pytest.fixture(autouse=True)
def _same_turns() -> Iterator[None]:
    """Ways are called in random turns, and draw from one generator."""
    state = random.getstate()
    random.seed(6)
    yield
    random.setstate(state)


def way(rng: np.random.Generator, us: float, loss: float = 0.0, noise: float = 0.05) -> Way:
    """Calls of at least `us`, mostly more, some lost."""
    return Way(
        lambda: (us * (1 + noise * float(rng.exponential())), int(rng.random() < loss)),
        lambda whole: 2 * whole,
        rest_s=0.0,
    )


def contest(ways: list[Way], may: list[Way] | None = None) -> list[Way]:
    return run(ways, ways if may is None else may, 10, 1e6, lambda text: None)


def test_the_least_is_found_and_the_others_are_told_apart() -> None:
    rng = np.random.default_rng(1)
    ways = [way(rng, us) for us in (104.0, 100.0, 300.0, 102.0)]
    assert contest(ways) == [ways[1]]
    assert [len(w.blocks) for w in ways] == [LOOKS[0], LOOKS[0], 1, LOOKS[0]]
    assert [w.told_apart for w in ways] == [True, False, False, True]
    assert ways[1].us == pytest.approx(100, rel=0.01)


def test_what_may_not_be_chosen_is_measured_and_does_not_win() -> None:
    rng = np.random.default_rng(2)
    ways = [way(rng, us) for us in (50.0, 100.0, 110.0)]
    assert contest(ways, ways[1:]) == [ways[1]]
    assert ways[0].us == pytest.approx(50, rel=0.01)


def test_a_loss_costs_what_it_costs() -> None:
    rng = np.random.default_rng(3)
    ways = [way(rng, 100, loss=0.2), way(rng, 140)]
    left = contest(ways)
    assert ways[0].us == pytest.approx(100 * (1 + 0.2 * 2), rel=0.06)
    assert left[0] in ways


def test_equal_ways_are_tied_and_seldom_told_apart() -> None:
    rng = np.random.default_rng(4)
    apart = 0
    for _ in range(50):
        ways = [way(rng, 100, loss=0.1) for _ in range(2)]
        left = contest(ways)
        apart += len(left) == 1
        mean, width = slower_by(left[-1], left[0])
        if len(left) == 2:
            assert mean >= 0
            assert len(ways[0].blocks) == len(ways[1].blocks) == LOOKS[-1]
            assert mean <= width
    assert apart <= 9  # four looks of 1 %, of the least of two: about 2 of 50 are expected


def test_the_interval_is_students() -> None:
    rng = np.random.default_rng(5)
    for n in (2, 3, 7, 11, 12, 25, 50, 100):
        a, b = way(rng, 1.0), way(rng, 1.0)
        a.blocks, b.blocks = rng.normal(3, 1, n + 2).tolist(), rng.normal(1, 1, n).tolist()
        found = np.array(a.blocks[:n]) - np.array(b.blocks)
        mean, width = slower_by(a, b)
        t = stats.t.ppf(0.995, n - 1)
        assert mean == pytest.approx(found.mean())
        assert width == pytest.approx(t * found.std(ddof=1) / math.sqrt(n), rel=0.005)
    assert pytest.approx(stats.t.ppf(0.995, np.arange(1, len(T_99) + 1)).tolist(), rel=2e-3) == T_99
