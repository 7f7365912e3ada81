"""Faster, slower or no difference: under a clock that the test drives, with noise that is the test's own."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from rtaccel.core.errors import FormatError
from rtaccel.measure.interleave import Comparison, Ratio, compare


class Machine:
    """A clock, and calls whose time wanders with a load that lasts for many calls, and jumps now and then."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.now = 0
        self.load = 1.0

    def __call__(self) -> int:
        return self.now

    def work(self, ns: float) -> Callable[[], None]:
        def call() -> None:
            if self.rng.random() < 0.002:
                self.load = float(self.rng.uniform(0.8, 1.6))
            wait = 200_000 if self.rng.random() < 0.01 else 0
            self.now += int(ns * self.load * self.rng.lognormal(0, 0.05)) + wait

        return call


def test_a_function_against_itself_shows_no_difference() -> None:
    verdicts = []
    for seed in range(40):
        machine = Machine(seed)
        found = compare(machine.work(20_000), machine.work(20_000), seconds=0.1, seed=seed, clock=machine)
        verdicts.append(found.verdict)
    assert verdicts.count("no difference") >= 38


@pytest.mark.parametrize(("times", "verdict"), [(1.1, "slower"), (1 / 1.1, "faster")])
def test_ten_per_cent_are_found(times: float, verdict: str) -> None:
    for seed in range(10):
        machine = Machine(seed)
        found = compare(machine.work(20_000 * times), machine.work(20_000), seconds=1, seed=seed, clock=machine)
        assert found.verdict == verdict, found
        assert found.ratio.low < times < found.ratio.high


def test_a_difference_within_the_margin_is_none() -> None:
    machine = Machine(0)
    slower = machine.work(20_000 * 1.01)
    assert compare(slower, machine.work(20_000), seconds=1, clock=machine).verdict == "no difference"
    assert compare(slower, machine.work(20_000), seconds=3, margin=0.0, clock=machine).ratio.value > 1


@pytest.mark.parametrize(
    ("low", "high", "verdict", "hidden"),
    [
        (0.99, 1.05, "no difference", 0.05), (1.021, 1.2, "slower", 0.2), (1.02, 1.2, "no difference", 0.2),
        (0.8, 0.98, "faster", 0.25), (0.8, 0.99, "no difference", 0.25), (0.5, 2.0, "no difference", 1.0),
    ],
)  # fmt: skip
def test_verdicts_come_from_the_whole_interval(low: float, high: float, verdict: str, hidden: float) -> None:
    found = Comparison("new", "old", Ratio((low + high) / 2, low, high, 0.99), 0.02)
    assert found.verdict == verdict
    assert found.hidden == pytest.approx(hidden)
    assert verdict in str(found)
    assert ("could be hidden" in str(found)) == (verdict == "no difference")


def test_rounds_are_fixed_before_the_run() -> None:
    machine = Machine(1)
    calls = []

    def counted() -> None:
        calls.append(0)
        machine.now += 1_000_000

    compare(counted, counted, seconds=0.001, clock=machine)
    # warm-up by time, then 30 rounds of 5 calls and one uncounted, of both
    assert len(calls) >= 2 * 30 * 6
    assert len(calls) <= 2 * 30 * 6 + 4 * 51


def test_refused() -> None:
    for seconds in (0, -1, math.inf, "1"):
        with pytest.raises(FormatError, match="seconds"):
            compare(len, len, seconds=seconds)  # type: ignore[arg-type]
    with pytest.raises(FormatError, match="callables"):
        compare(3, len)  # type: ignore[arg-type]
    with pytest.raises(ZeroDivisionError):
        compare(lambda: 1 / 0, lambda: None, seconds=0.1)
