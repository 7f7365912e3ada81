"""Calls that are not independent: what they are worth, and that no verdict rests on taking them for more."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest

import rtaccel as rt
from rtaccel.core.errors import FormatError
from rtaccel.measure.statistics.dependence import ENOUGH_EXCEEDANCES, _student99, inflation
from rtaccel.measure.statistics.quantiles import TAILS, estimate
from rtaccel.measure.statistics.run import Run
from rtaccel.measure.statistics.steady import steady_from
from rtaccel.measure.verdict import decide, judge, judge_quantile, withhold


def marked(n: int, places: Iterable[int]) -> np.ndarray:
    samples = np.full(n, 10.0) + np.arange(n) % 7 / 100  # not all equal: the usual calls have no ties to hide behind
    samples[list(places)] = 90.0
    return samples


def test_independent_calls_are_worth_their_number() -> None:
    rng = np.random.default_rng(0)
    factors = [inflation(rng.choice(20_000, 200, replace=False), 20_000) for _ in range(300)]
    assert np.median(factors) == 1.0
    assert np.quantile(factors, 0.9) < 2.5


@pytest.mark.parametrize("cluster", [2, 5, 20])
def test_clusters_of_k_are_worth_a_k_th(cluster: int) -> None:
    rng = np.random.default_rng(1)
    starts = rng.choice(100_000 // 50, 150, replace=False) * 50
    places = (starts[:, None] + np.arange(cluster)).ravel()
    assert 0.75 * cluster < inflation(places, 100_000) < 1.6 * cluster


def test_inflation_of_an_autoregressive_sign_is_the_known_one() -> None:
    """A two-state chain that keeps its state with probability (1 + r) / 2 has correlation r^lag: D = (1 + r) / (1 - r)."""
    rng = np.random.default_rng(2)
    for r in (0.5, 0.9):
        flips = rng.random(200_000) < (1 - r) / 2
        state = np.cumsum(flips) % 2 == 1
        expected = (1 + r) / (1 - r)
        assert 0.8 * expected < inflation(np.flatnonzero(state), len(state)) < 2 * expected  # the largest of ten scales


@pytest.mark.parametrize("places", [[], [3], range(100)])
def test_none_one_or_all_calls_say_nothing_about_dependence(places: Iterable[int]) -> None:
    assert inflation(np.array(list(places), dtype=int), 100) == 1.0


def test_student_quantile() -> None:
    known = {15: 2.60248, 31: 2.45282, 100: 2.36422, 10**6: 2.32635}  # tables of Student's t
    assert {df: _student99(df) for df in known} == pytest.approx(known, abs=1e-3)
    assert _student99(3) == pytest.approx(4.54070, rel=0.03)


def test_one_burst_neither_refutes_nor_hides_in_a_proof() -> None:
    spread = decide(Run(marked(2_000, range(0, 2_000, 40))), 50.0, TAILS["p99"])
    burst = decide(Run(marked(2_000, range(700, 750))), 50.0, TAILS["p99"])
    assert (spread.verdict, burst.verdict) == ("FAIL", "UNDECIDED")
    assert burst.inflation > 20
    few = decide(Run(marked(3_000, range(1_000, 1_012))), 50.0, TAILS["p99"])  # independent, 12 of 3,000 would pass
    assert few.verdict == "UNDECIDED"
    assert decide(Run(marked(3_000, range(0, 3_000, 250))), 50.0, TAILS["p99"]).verdict == "PASS"


def test_where_few_calls_exceed_the_slowest_32_tell_how_they_come() -> None:
    samples = marked(662, [])
    samples[300 : 300 + ENOUGH_EXCEEDANCES] = 40.0  # within the limit of 50, and all in one stretch
    found = decide(Run(samples), 50.0, TAILS["p99"])
    assert (found.over, found.verdict) == (0, "UNDECIDED")
    assert found.needed >= 662 * found.inflation > 662 * 5
    rng = np.random.default_rng(3)
    samples = marked(662, [])
    samples[rng.choice(662, ENOUGH_EXCEEDANCES, replace=False)] = 40.0
    assert decide(Run(samples), 50.0, TAILS["p99"]).verdict == "PASS"
    samples[300 : 300 + ENOUGH_EXCEEDANCES] = 20.0  # less than half of the limit: another matter
    assert decide(Run(samples), 50.0, TAILS["p99"]).verdict == "PASS"


def test_needed_samples_are_a_field() -> None:
    line = judge_quantile("p99_us", 50.0, marked(300, []))
    assert line.verdict == "UNDECIDED"
    assert line.needed is not None
    assert line.needed >= 662
    assert "362 more" in line.reason
    near = judge_quantile("p99_us", 50.0, marked(2_000, range(0, 2_000, 100)))  # 20 of 2,000: just at the limit
    assert near.needed == 24_000  # twelve times as many
    assert f"{near.needed:,}" in near.reason
    assert judge_quantile("p99_us", 50.0, marked(662, [])).needed is None
    assert judge_quantile("p99_us", 50.0, np.full(662, 90.0)).needed is None


@pytest.mark.parametrize("share", [0.004, 0.025])
def test_the_needed_number_decides(share: float) -> None:
    rng = np.random.default_rng(4)
    tail, undecided = TAILS["p99"], 0
    for _ in range(100):
        first = decide(Run(rng.random(662)), 1 - share, tail)
        if first.verdict == "UNDECIDED":
            undecided += decide(Run(rng.random(first.needed)), 1 - share, tail).verdict == "UNDECIDED"
    assert undecided < 10


def test_bounds_of_independent_calls_are_order_statistics_or_a_little_wider() -> None:
    rng, same = np.random.default_rng(6), 0
    for _ in range(50):
        run = Run(rng.random(1_000))
        for name in ("p50", "p99"):
            plain = estimate(run.ordered, TAILS[name])
            low, high = run.bounds(TAILS[name])
            assert low is not None
            assert low <= plain.low
            assert high is None or high >= plain.high
            same += (low, high) == (plain.low, plain.high)
    assert same > 50
    assert Run([5.0]).bounds(TAILS["p99"]) == (None, None)


def test_bounds_hold_ties_together() -> None:
    samples = np.tile([1.0, 2.0], 500)
    low, high = Run(samples).bounds(TAILS["p50"])
    assert (low, high) == (1.0, 2.0)


@pytest.mark.parametrize(
    ("before", "after", "whole", "change"), [(100, 270, "PASS", "slower"), (1_000, 100, "FAIL", "faster")]
)
def test_a_verdict_that_the_end_of_the_run_contradicts_is_withheld(
    before: int, after: int, whole: str, change: str
) -> None:
    """Slow calls in the first two thirds of 60,000 and in the last, evenly spread in each."""
    places = [i * 40_000 // before for i in range(before)] + [40_000 + i * 20_000 // after for i in range(after)]
    samples = marked(60_000, places)
    assert decide(Run(samples), 50.0, TAILS["p99"]).verdict == whole
    line = judge_quantile("p99_us", 50.0, samples)
    assert line.verdict == "UNDECIDED"
    assert f"became {change}: {after:,} of the last 20,000 took longer and {before:,} of the 40,000" in line.reason
    assert line.needed is None


def test_samples_that_are_no_times_are_refused() -> None:
    for bad in (-1.0, np.nan, np.inf):
        with pytest.raises(FormatError, match="NaN, infinite or negative"):
            judge(rt.Budget(p99_us=50), np.array([10.0, bad]))


def test_withholding_leaves_what_fails_and_what_is_exact() -> None:
    budget = rt.Budget(p50_us=50, p99_us=80, size_bytes=10)
    lines = judge(
        budget, np.concatenate([np.full(900, 10.0), np.full(100, 90.0)])[np.random.default_rng(0).permutation(1_000)], 5
    )
    assert [line.verdict for line in lines] == ["PASS", "FAIL", "PASS"]
    assert [line.verdict for line in withhold(lines, "why")] == ["UNDECIDED", "FAIL", "PASS"]
    assert withhold(lines, "why")[0].reason == "why"


def test_steady_part() -> None:
    rng = np.random.default_rng(9)
    steady = rng.lognormal(0, 0.1, 6_000)
    assert steady_from(steady) == 0
    warming = steady * np.concatenate([np.linspace(3, 1, 1_000), np.ones(5_000)])
    assert 600 <= steady_from(warming) <= 1_200
    assert steady_from(steady * np.linspace(1, 3, 6_000)) is None
    assert steady_from(steady[:100] * 1e3) == 0
