"""Verdicts: PASS, FAIL or UNDECIDED for each line of a budget, with the reason."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Literal

import numpy as np

from rtaccel.core.errors import FormatError
from rtaccel.measure.budget import EXACT, Budget
from rtaccel.measure.numbers import figure
from rtaccel.measure.statistics.quantiles import TAILS, min_samples, refuting_exceedances, samples_to_decide
from rtaccel.measure.statistics.run import Run, proved, refuted

Verdict = Literal["PASS", "FAIL", "UNDECIDED", "NOT TIMED"]
"""NOT TIMED: a latency that nothing was measured for, as in tests that run side by side. `measure` never gives it."""


@dataclass(frozen=True)
class Line:
    """One limit and what became of it.

    value: what was found. low, high: 99 % bounds of a latency; None where there are none. needed: with an UNDECIDED
    latency, the samples with which a run of its own decides it nine times in ten; None where more samples do not help,
    and where it is decided. effective: how many independent calls the run is worth for this line.
    """

    key: str
    limit: float
    value: float | None
    low: float | None
    high: float | None
    verdict: Verdict
    reason: str
    needed: int | None = None
    effective: float | None = None


def overall(lines: Iterable[Line]) -> Verdict:
    """FAIL if any line fails, else NOT TIMED if any is, else UNDECIDED if any is, else PASS."""
    verdicts = {line.verdict for line in lines}
    worst: tuple[Verdict, ...] = ("FAIL", "NOT TIMED", "UNDECIDED")
    return next((verdict for verdict in worst if verdict in verdicts), "PASS")


@dataclass(frozen=True)
class Decision:
    """What the calls over a limit say. over: how many. inflation: D of `dependence`; the run is worth n / D calls."""

    verdict: Verdict
    n: int
    over: int
    inflation: float
    tail: Fraction

    @property
    def effective(self) -> int:
        return int(self.n / self.inflation)

    @property
    def needed(self) -> int:
        """Samples with which a run of its own decides nine times in ten, if calls go on as they did.

        A quarter more where calls are dependent: the inflation of a short run is known no better.
        """
        fewest = math.ceil(min_samples(self.tail) * self.inflation)
        found = samples_to_decide(self.over / self.inflation, self.effective, self.tail) * self.inflation
        return max(fewest, self.n + 1, math.ceil(found * (1.0 if self.inflation == 1 else 1.25)))


def decide(run: Run, limit: float, tail: Fraction) -> Decision:
    """PASS, FAIL or UNDECIDED of "at most `tail` of all calls take longer than `limit`", wrong at most once in 100.

    One odd call never decides. A PASS needs a run worth so many independent calls that one of them may exceed the limit
    (662 for p99; see `min_samples`). A FAIL needs two calls over the limit at least; it does not need the 662, because a
    refutation has its own exact bound: ten calls that are all far over a limit on p99 refute it.
    """
    over = run.over(limit)
    factor = run.inflation(limit)
    verdict: Verdict = "UNDECIDED"
    if refuted(over, run.n, factor, tail):
        verdict = "FAIL"
    elif int(run.n / factor) >= min_samples(tail) and proved(over, run.n, factor, tail):
        verdict = "PASS"
    return Decision(verdict, run.n, over, factor, tail)


def judge_quantile(key: str, limit_us: float, run: Run | Any) -> Line:
    """The line of a latency limit. run: a `Run`, or an array [n] of samples in microseconds in the order measured.

    Beyond `decide`: a verdict that the last third of the run contradicts is withheld, for the calls have changed.
    """
    run = run if isinstance(run, Run) else Run(run)
    name = key.removesuffix("_us")
    tail = TAILS[name]
    label = "p99.9" if name == "p999" else name
    found = decide(run, limit_us, tail)
    low, high = run.bounds(tail)
    value = float(run.ordered[run.n - 1 - run.n * tail.numerator // tail.denominator])
    line = Line(key, limit_us, value, low, high, found.verdict, "", effective=found.effective)
    contradiction = None if found.verdict == "UNDECIDED" else _contradiction(run, limit_us, tail, found.verdict)
    if contradiction:
        return replace(line, verdict="UNDECIDED", reason=contradiction)
    if found.verdict == "UNDECIDED":
        return replace(line, reason=_open(found, label, low, high), needed=found.needed)
    counted = f"{found.over:,} of {found.n:,} calls took longer"
    if found.verdict == "FAIL":
        refuting = refuting_exceedances(found.effective, tail) or 2
        enough = math.ceil(max(refuting, 2) * found.inflation)
        reason = f"{counted}; {enough:,} refute it with 99 % confidence{_clusters(found)}"
        return replace(line, low=limit_us if low is None else max(low, limit_us), reason=reason)
    # A limit that is refuted or proved is a bound itself.
    high = limit_us if high is None else min(high, limit_us)
    return replace(
        line, high=high, reason=f"{counted}; with 99 % confidence {label} <= {figure(high)} us{_clusters(found)}"
    )


def _contradiction(run: Run, limit: float, tail: Fraction, verdict: Verdict) -> str | None:
    rest = run.in_order[2 * run.n // 3 :]
    if len(rest) < 2 or len(rest) == run.n:
        return None
    last = decide(Run(rest), limit, tail)
    if "UNDECIDED" in (last.verdict, verdict) or last.verdict == verdict:
        return None
    change = "slower" if last.verdict == "FAIL" else "faster"
    return (
        f"the calls became {change}: {last.over:,} of the last {last.n:,} took longer and "
        f"{run.over(limit) - last.over:,} of the {run.n - last.n:,} before; warm up longer, fix the clock frequency, or "
        "measure again"
    )


def _open(found: Decision, label: str, low: float | None, high: float | None) -> str:
    fewest = math.ceil(min_samples(found.tail) * found.inflation)
    if found.n < fewest:
        return f"{found.n:,} samples; a {label} claim needs {fewest:,}: {fewest - found.n:,} more{_clusters(found)}"
    return (
        f"neither proved nor refuted: the 99 % bounds are {_bound(low)} and {_bound(high)} us{_clusters(found)}; a run of "
        f"{found.needed:,} samples would tell, or a quieter machine"
    )


def _clusters(found: Decision) -> str:
    if found.inflation == 1:
        return ""
    return f" (slow calls come together: {found.n:,} samples are worth {found.effective:,} independent ones)"


def _bound(bound: float | None) -> str:
    return "?" if bound is None else figure(bound)


def judge_exact(key: str, limit: float, value: float | None, argument: str) -> Line:
    """A number that is known, not sampled. UNDECIDED where it is not given, FAIL where it is not a number.

    PASS if value <= limit, else FAIL; for `min_metric`, PASS if value >= limit, else FAIL.
    """
    if value is None:
        return Line(key, limit, None, None, None, "UNDECIDED", f"not known: pass {argument}= to judge it")
    if math.isnan(value):
        return Line(key, limit, value, None, None, "FAIL", "it is not a number")
    least = key.startswith("min_")
    met = value >= limit if least else value <= limit
    sign = (">=" if met else "<") if least else ("<=" if met else ">")
    return Line(
        key, limit, value, None, None, "PASS" if met else "FAIL", f"{figure(value, 6)} {sign} {figure(limit, 6)}"
    )


def judge(
    budget: Budget,
    samples_us: Run | Any,
    size_bytes: int | None = None,
    error: float | None = None,
    metric: float | None = None,
    peak_bytes: int | None = None,
    joules: float | None = None,
) -> tuple[Line, ...]:
    """Every line of a budget, in the order of its keys. samples_us: a `Run` or an array [n], in the order measured.

    Raises FormatError for samples that are no times: NaN, infinite or negative.
    """
    run = samples_us if isinstance(samples_us, Run) else Run(samples_us)
    if not (np.isfinite(run.in_order).all() and (run.in_order >= 0).all()):
        raise FormatError("verdict", "samples that are NaN, infinite or negative", "times", "Check the clock.")
    exact = {"size_bytes": size_bytes, "error": error, "metric": metric, "peak_bytes": peak_bytes, "joules": joules}
    return tuple(
        judge_exact(key, limit, exact[EXACT[key]], EXACT[key]) if key in EXACT else judge_quantile(key, limit, run)
        for key, limit in budget.as_dict().items()
    )


def not_timed(budget: Budget, lines: Iterable[Line], reason: str) -> tuple[Line, ...]:
    """Every line of a budget, in the order of its keys, where only `lines` could be judged: the rest are NOT TIMED."""
    judged = {line.key: line for line in lines}
    return tuple(
        judged.get(key) or Line(key, limit, None, None, None, "NOT TIMED", reason)
        for key, limit in budget.as_dict().items()
    )


def withhold(lines: Iterable[Line], reason: str) -> tuple[Line, ...]:
    """The lines with every PASS of a latency made UNDECIDED: what was measured is not what the budget is about."""
    return tuple(
        replace(line, verdict="UNDECIDED", reason=reason) if line.verdict == "PASS" and line.key not in EXACT else line
        for line in lines
    )
