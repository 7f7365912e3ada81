"""Verdicts: PASS, FAIL or UNDECIDED for each line of a budget, with the reason."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from rtaccel.measure.budget import Budget
from rtaccel.measure.quantiles import TAILS, estimate, min_samples, refuting_exceedances

Verdict = Literal["PASS", "FAIL", "UNDECIDED"]


@dataclass(frozen=True)
class Line:
    """One limit and what became of it. low, high: 99 % bounds of a latency; None where there are none."""

    key: str
    limit: float
    value: float | None
    low: float | None
    high: float | None
    verdict: Verdict
    reason: str


def overall(lines: Iterable[Line]) -> Verdict:
    """FAIL if any line fails, else UNDECIDED if any is, else PASS."""
    verdicts = {line.verdict for line in lines}
    return "FAIL" if "FAIL" in verdicts else "UNDECIDED" if "UNDECIDED" in verdicts else "PASS"


def judge_quantile(key: str, limit_us: float, ordered_us: Any) -> Line:
    """PASS if the upper bound is within the limit, FAIL if the lower bound is above it, else UNDECIDED.

    One odd call never decides. A PASS needs so many samples that one of them may exceed the limit (662 for p99; see
    `min_samples`). A FAIL needs two calls over the limit at least; it does not need the 662, because a refutation has
    its own exact bound: ten calls that are all far over a limit on p99 refute it.

    ordered_us: array [n] of samples in microseconds, ascending.
    """
    name = key.removesuffix("_us")
    tail = TAILS[name]
    n = len(ordered_us)
    label = "p99.9" if name == "p999" else name
    found = estimate(ordered_us, tail)
    over = n - int(ordered_us.searchsorted(limit_us, side="right"))
    needed = min_samples(tail)
    refuting = refuting_exceedances(n, tail)

    def line(verdict: Verdict, reason: str) -> Line:
        return Line(key, limit_us, found.value, found.low, found.high, verdict, reason)

    if refuting is not None and over >= max(refuting, 2):
        return line("FAIL", f"{over:,} of {n:,} calls took longer; {max(refuting, 2):,} refute it with 99 % confidence")
    if n < needed:
        return line("UNDECIDED", f"{n:,} samples; a {label} claim needs {needed:,}: {needed - n:,} more")
    if found.high is not None and found.high <= limit_us:
        return line("PASS", f"{over:,} of {n:,} calls took longer; with 99 % confidence {label} <= {found.high:.4g} us")
    return line(
        "UNDECIDED",
        f"the limit lies between the 99 % bounds, {_bound(found.low)} and {_bound(found.high)} us: measure more "
        "samples or on a quieter machine",
    )


def _bound(bound: float | None) -> str:
    return "?" if bound is None else f"{bound:.4g}"


def judge_exact(key: str, limit: float, value: float | None, argument: str) -> Line:
    """A number that is known, not sampled: PASS if value <= limit, FAIL if above or NaN, UNDECIDED if not given."""
    if value is None:
        return Line(key, limit, None, None, None, "UNDECIDED", f"not known: pass {argument}= to judge it")
    if math.isnan(value):
        return Line(key, limit, value, None, None, "FAIL", "it is not a number")
    verdict: Verdict = "PASS" if value <= limit else "FAIL"
    return Line(
        key, limit, value, None, None, verdict, f"{value:,.6g} {'<=' if verdict == 'PASS' else '>'} {limit:,.6g}"
    )


def judge(budget: Budget, ordered_us: Any, size_bytes: int | None, error: float | None) -> tuple[Line, ...]:
    """Every line of a budget, in the order of its keys. ordered_us: array [n], ascending."""
    exact = {"size_bytes": (size_bytes, "size_bytes"), "max_error": (error, "error")}
    return tuple(
        judge_exact(key, limit, *exact[key]) if key in exact else judge_quantile(key, limit, ordered_us)
        for key, limit in budget.as_dict().items()
    )
