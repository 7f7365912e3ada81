"""Order-statistic bounds against exact rational arithmetic, published sample sizes and simulated coverage."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from rtaccel.core.errors import FormatError
from rtaccel.measure.budget import Budget
from rtaccel.measure.statistics.quantiles import (
    TAILS,
    allowed_exceedances,
    binomial_cdf,
    estimate,
    min_samples,
    refuting_exceedances,
)
from rtaccel.measure.verdict import judge, judge_quantile, overall


def exact_pmf(n: int, p: Fraction) -> list[Fraction]:
    return [math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)]


@pytest.mark.parametrize("p", [Fraction(1, 2), Fraction(1, 10), Fraction(1, 100), Fraction(999, 1000)])
@pytest.mark.parametrize("n", [1, 2, 7, 64, 151])
def test_cdf_equals_rational_arithmetic(n: int, p: Fraction) -> None:
    total = Fraction(0)
    for k, term in enumerate(exact_pmf(n, p)):
        total += term
        if total > Fraction(1, 10**18):  # below that the sum may leave terms out
            assert binomial_cdf(k, n, float(p)) == pytest.approx(float(total), rel=1e-11)
    assert binomial_cdf(-1, n, float(p)) == 0.0


@pytest.mark.parametrize("quantile", TAILS)
def test_exceedances_equal_brute_force(quantile: str) -> None:
    tail, alpha = TAILS[quantile], Fraction(1, 100)
    for n in [*range(1, 40), 64, 99, 100, 101, 230]:
        pmf = exact_pmf(n, tail)
        below = [sum(pmf[: k + 1]) for k in range(n + 1)]  # P(at most k exceed)
        allowed = max((k for k in range(n + 1) if below[k] <= alpha), default=-1)
        refuting = min((m for m in range(1, n + 1) if 1 - below[m - 1] <= alpha), default=None)
        assert allowed_exceedances(n, tail) == allowed, n
        assert refuting_exceedances(n, tail) == refuting, n


@pytest.mark.parametrize("n", [10**5, 10**7])
@pytest.mark.parametrize("p", [0.5, 0.01, 0.001])
def test_lower_and_upper_tail_add_up_for_large_n(n: int, p: float) -> None:
    sd = math.sqrt(n * p * (1 - p))
    for offset in (-3, -1, 0, 2):
        k = int(n * p + offset * sd)
        assert binomial_cdf(k, n, p) + binomial_cdf(n - k - 1, n, 1 - p) == pytest.approx(1, abs=3e-7)


def test_middle_of_a_large_fair_binomial() -> None:
    n = 10**7
    middle = math.sqrt(2 / (math.pi * n)) * (1 - 1 / (4 * n))  # probability of exactly n/2
    assert binomial_cdf(n // 2 - 1, n, 0.5) == pytest.approx(0.5 - middle / 2, rel=1e-6)


@pytest.mark.parametrize(
    ("tail", "sizes"),
    [
        (Fraction(1, 100), (299, 473, 459, 662, 2_010)),
        (Fraction(1, 1_000), (2_995, 4_742, 4_603, 6_636, 20_140)),
        (Fraction(1, 10_000), (29_956, 47_437, 46_050, 66_381, 201_442)),
        (Fraction(1, 100_000), (299_572, 474_385, 460_515, 663_833, 2_014_463)),
    ],
)
def test_published_sample_sizes(tail: Fraction, sizes: tuple[int, ...]) -> None:
    asked = ((0, 0.05), (1, 0.05), (0, 0.01), (1, 0.01), (10, 0.01))
    assert tuple(min_samples(tail, k, alpha) for k, alpha in asked) == sizes


def test_fewest_samples_of_each_quantile() -> None:
    assert {name: min_samples(tail) for name, tail in TAILS.items()} == {"p50": 11, "p90": 64, "p99": 662, "p999": 6636}


def test_estimate_takes_ranks_without_interpolation() -> None:
    ordered = np.arange(1.0, 1001.0)
    found = estimate(ordered, TAILS["p99"])
    assert found.value == 990.0  # rank ceil(0.99 * 1000)
    assert found.high == 1000.0 - allowed_exceedances(1000, TAILS["p99"])
    assert found.low == 1001.0 - refuting_exceedances(1000, TAILS["p99"])
    assert estimate([3.0], TAILS["p50"]).value == 3.0
    assert estimate([3.0], TAILS["p50"]).high is None
    with pytest.raises(FormatError):
        estimate([], TAILS["p50"])


@pytest.mark.parametrize("quantile", ["p50", "p90", "p99"])
def test_each_bound_is_wrong_at_most_once_in_a_hundred(quantile: str) -> None:
    tail, runs = TAILS[quantile], 4000
    samples = np.sort(np.random.default_rng(7).random((runs, 1000)), axis=1)
    truth = float(1 - tail)
    found = [estimate(row, tail) for row in samples]
    most = 0.01 * runs + 3 * math.sqrt(0.01 * runs)
    assert sum(e.high < truth for e in found) <= most
    assert sum(e.low > truth for e in found) <= most


def line(fast: int, slow: int, key: str = "p99_us"):
    """The slow calls are spread over the run."""
    samples = np.full(fast + slow, 10.0)
    samples[(np.arange(slow) + 1) * (fast + slow) // (slow + 1) if fast else slice(None)] = 90.0
    return judge_quantile(key, 50.0, samples)


def test_a_claim_needs_enough_samples() -> None:
    too_few = line(661, 0)
    assert too_few.verdict == "UNDECIDED"
    assert "1 more" in too_few.reason
    assert line(662, 0).verdict == "PASS"
    assert line(661, 1).verdict == "PASS"
    assert line(660, 2).verdict == "UNDECIDED"
    assert line(6635, 1, "p999_us").verdict == "PASS"
    assert line(6634, 1, "p999_us").verdict == "UNDECIDED"


def test_a_refutation_has_its_own_bound_and_never_rests_on_one_call() -> None:
    m = refuting_exceedances(662, TAILS["p99"])
    assert m is not None
    assert line(662 - m, m).verdict == "FAIL"
    assert line(662 - m + 1, m - 1).verdict == "UNDECIDED"
    assert line(0, 10).verdict == "FAIL"
    assert line(0, 2).verdict == "FAIL"
    assert line(0, 1).verdict == "UNDECIDED"
    assert line(10, 1, "p999_us").verdict == "UNDECIDED"


def test_a_limit_is_met_by_a_value_equal_to_it() -> None:
    assert judge_quantile("p99_us", 50.0, np.full(662, 50.0)).verdict == "PASS"
    assert judge_quantile("p99_us", 50.0, np.full(662, np.nextafter(50.0, 51))).verdict == "FAIL"


def test_size_and_error_are_exact_and_the_worst_line_decides() -> None:
    ordered = np.full(700, 10.0)
    budget = Budget(p99_us=50, size_bytes=100, max_error=0.5)

    def verdicts(size: int | None, error: float | None) -> list[str]:
        lines = judge(budget, ordered, size, error)
        return [line.verdict for line in lines] + [overall(lines)]

    assert verdicts(100, 0.5) == ["PASS", "PASS", "PASS", "PASS"]
    assert verdicts(None, 0.5) == ["PASS", "UNDECIDED", "PASS", "UNDECIDED"]
    assert verdicts(101, None) == ["PASS", "FAIL", "UNDECIDED", "FAIL"]
    assert verdicts(100, math.nan) == ["PASS", "PASS", "FAIL", "FAIL"]
