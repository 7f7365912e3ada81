"""Simulated runs through the code that decides: how often a verdict is wrong, and how often there is none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from rtaccel.measure.selftest.scenarios import Scenario
from rtaccel.measure.statistics.quantiles import TAILS
from rtaccel.measure.statistics.run import Run
from rtaccel.measure.verdict import Decision, Verdict, decide

_CELLS = 2_000_000
MAX_SAMPLES = 3_000_000
"""A run that is said to need more counts as undecided."""


@dataclass(frozen=True)
class Errors:
    """Of `runs` runs of n calls at a limit that exactly the allowed share exceeds, where both errors are likeliest.

    false_fail: share of runs that FAIL, though the limit is met. false_pass: share of runs that PASS, though a limit the
    least bit lower would be missed and would pass as well.
    """

    scenario: str
    quantile: str
    n: int
    runs: int
    false_pass: float
    false_fail: float


@dataclass(frozen=True)
class Decided:
    """Of `runs` runs at a limit whose share is not the allowed one: what became of them.

    A run that is undecided is done anew with as many calls as its verdict said are needed. share: of calls over the
    limit; wrong, undecided: shares of runs at the end; samples: median of the calls of the last run.
    """

    scenario: str
    quantile: str
    share: float
    runs: int
    wrong: float
    undecided: float
    samples: int


def errors(scenario: Scenario, quantile: str, n: int, runs: int, seed: int = 0) -> Errors:
    """The rates of wrong verdicts where they are highest; both should be 1 % at most."""
    tail = TAILS[quantile]
    limit = scenario.limit(float(tail))
    found = [decide(Run(row), limit, tail).verdict for row in _rows(scenario, n, runs, seed)]
    return Errors(scenario.name, quantile, n, runs, found.count("PASS") / runs, found.count("FAIL") / runs)


def decided(scenario: Scenario, quantile: str, share: float, n: int, runs: int, seed: int = 0) -> Decided:
    """What becomes of runs of n calls, when those that are undecided are done anew as their verdict says."""
    tail = TAILS[quantile]
    limit = scenario.limit(share)
    truth: Verdict = "PASS" if share <= tail else "FAIL"
    verdicts: list[Verdict] = []
    samples: list[int] = []
    again = np.random.default_rng((seed, 1))
    for row in _rows(scenario, n, runs, seed):
        last = _until_decided(row, lambda m: scenario.draw(again, 1, m)[0], limit, tail)
        verdicts.append(last.verdict)
        samples.append(last.n)
    undecided = verdicts.count("UNDECIDED")
    wrong = runs - undecided - verdicts.count(truth)
    return Decided(scenario.name, quantile, share, runs, wrong / runs, undecided / runs, int(np.median(samples)))


def _until_decided(row: np.ndarray, draw: Callable[[int], np.ndarray], limit: float, tail: Fraction) -> Decision:
    first = decide(Run(row), limit, tail)
    if first.verdict != "UNDECIDED" or first.needed > MAX_SAMPLES:
        return first
    return decide(Run(draw(first.needed)), limit, tail)


def _rows(scenario: Scenario, n: int, runs: int, seed: int) -> Iterator[np.ndarray]:
    rng = np.random.default_rng((seed, 0))
    at_once = max(1, _CELLS // n)
    for start in range(0, runs, at_once):
        yield from scenario.draw(rng, min(at_once, runs - start), n)
