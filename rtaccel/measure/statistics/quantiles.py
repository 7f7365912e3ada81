"""Confidence bounds of a quantile from order statistics: no assumption about the shape of the distribution.

Of n independent calls, the number that exceed the true q-quantile is at most Binomial(n, 1 - q). So

- if k calls exceed a limit and P(Binomial(n, 1 - q) <= k) <= alpha, the q-quantile is within the limit: were it
  above, so few exceedances would be seen with probability alpha at most. The (k+1)-th largest sample, for the
  largest such k, is the upper bound.
- if m calls exceed a limit and P(Binomial(n, 1 - q) >= m) <= alpha, the q-quantile is above the limit. The m-th
  largest sample, for the smallest such m, is the lower bound.

Each bound holds on its own with confidence 1 - alpha, for independent calls. `dependence` says how many such calls a run
of dependent ones is worth.

Method: W. J. Conover, Practical Nonparametric Statistics, section 3.2; H. A. David and H. N. Nagaraja, Order
Statistics, section 7.1. The same rule with one allowed exceedance gives MLPerf's 662 queries for a 99th percentile.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any

from rtaccel.core.errors import FormatError

ALPHA = 0.01
"""How often, at most, each bound may be wrong."""

CONFIDENCE = 1 - ALPHA

TAILS = {"p50": Fraction(1, 2), "p90": Fraction(1, 10), "p99": Fraction(1, 100), "p999": Fraction(1, 1000)}
"""Name of a quantile -> the share of calls that may exceed it, 1 - q. Exact, so that ranks are."""


def binomial_cdf(k: int, n: int, p: float) -> float:
    """P(Binomial(n, p) <= k), 0 < p < 1.

    Sums probabilities upwards from where they matter, each from the one before it; what lies more than 12 standard
    deviations (plus 12) below the mean is left out and is below 1e-20. The relative error comes from lgamma, whose
    value grows with n log n: below 1e-12 for n up to 1,000 and 1e-7 for n = 1e7.
    """
    if k < 0:
        return 0.0
    if k >= n:
        return 1.0
    first = _first(n, p)
    if k < first:
        return 0.0
    total = term = _pmf(first, n, p)
    odds = p / (1 - p)
    for i in range(first, k):
        term *= (n - i) / (i + 1) * odds
        total += term
    return min(total, 1.0)


def _first(n: int, p: float) -> int:
    return max(0, math.floor(n * p - 12 * math.sqrt(n * p * (1 - p)) - 12))


def _pmf(k: int, n: int, p: float) -> float:
    log_ways = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return math.exp(log_ways + k * math.log(p) + (n - k) * math.log1p(-p))


@lru_cache(maxsize=8192)
def allowed_exceedances(n: int, tail: Fraction, alpha: float = ALPHA) -> int:
    """Largest k with P(Binomial(n, tail) <= k) <= alpha: so many calls over a limit still prove it. -1: none do."""
    p = float(tail)
    i = _first(n, p)
    total = term = _pmf(i, n, p)
    odds = p / (1 - p)
    while total <= alpha * (1 + 1e-9):  # a tie counts, whatever the last bits; ends, as the sum reaches 1
        term *= (n - i) / (i + 1) * odds
        total += term
        i += 1
    return i - 1


def refuting_exceedances(n: int, tail: Fraction, alpha: float = ALPHA) -> int | None:
    """Smallest m with P(Binomial(n, tail) >= m) <= alpha: so many calls over a limit refute it. None: not even n do."""
    m = n - allowed_exceedances(n, 1 - tail, alpha)  # at least m exceed = at most n - m do not
    return m if m <= n else None


@lru_cache(maxsize=256)
def min_samples(tail: Fraction, exceedances: int = 1, alpha: float = ALPHA) -> int:
    """Fewest samples with which a quantile can be proved while `exceedances` of them are over the limit.

    With one exceedance: 11 for p50, 64 for p90, 662 for p99, 6,636 for p99.9.
    """
    low, high = exceedances, exceedances + 1
    while binomial_cdf(exceedances, high, float(tail)) > alpha:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if binomial_cdf(exceedances, middle, float(tail)) <= alpha:
            high = middle
        else:
            low = middle
    return high


def samples_to_decide(over: float, n: float, tail: Fraction) -> float:
    """Samples with which a run of its own decides about 19 times in 20, after `over` of n independent calls exceeded.

    The normal approximation of a one-sided test, (z_99 sqrt(t (1 - t)) + z_95 sqrt(p (1 - p)))^2 / (p - t)^2. The share
    p that exceeds is not known: it is taken one standard error nearer to the tail t than it was found. A run too short to
    expect four calls over the limit says nothing about p; then the answer is for p = t / 2. Twelve times as many as
    there were is the most that is said: nearer to the limit, such a run knows better how many it takes.
    """
    t = float(tail)
    p = (over + 0.5) / (n + 1)
    error = math.sqrt(p * (1 - p) / (n + 1))
    if n * t < 4:
        return _to_decide(t / 2, t)
    if abs(p - t) <= error:
        return 12 * n
    return min(12 * n, _to_decide(p + error if p < t else p - error, t))


def _to_decide(p: float, t: float) -> float:
    return ((2.3263 * math.sqrt(t * (1 - t)) + 1.645 * math.sqrt(p * (1 - p))) / (p - t)) ** 2


@dataclass(frozen=True)
class QuantileEstimate:
    """value: the sample of rank ceil(q n), no interpolation. low, high: 99 % bounds; None where n is too small."""

    value: float
    low: float | None
    high: float | None


def estimate(ordered: Sequence[float] | Any, tail: Fraction, alpha: float = ALPHA) -> QuantileEstimate:
    """Value and bounds of one quantile. ordered: the samples in ascending order, a sequence or an array [n].

    Raises FormatError when there are none.
    """
    n = len(ordered)
    if n == 0:
        raise FormatError("quantile", "no samples", "at least one", "Measure at least one call.")
    value = float(ordered[n - 1 - n * tail.numerator // tail.denominator])
    allowed = allowed_exceedances(n, tail, alpha)
    refuting = refuting_exceedances(n, tail, alpha)
    return QuantileEstimate(
        value,
        low=None if refuting is None else float(ordered[n - refuting]),
        high=None if allowed < 0 else float(ordered[n - 1 - allowed]),
    )
