"""`measure`: times each call of anything callable on its own and judges the result against a budget."""

from __future__ import annotations

import json
import math
import time
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rtaccel.core.errors import BudgetExceeded, FormatError
from rtaccel.measure import sampler
from rtaccel.measure.budget import Budget
from rtaccel.measure.environment import environment
from rtaccel.measure.quantiles import TAILS, estimate, min_samples
from rtaccel.measure.verdict import Line, Verdict, judge, overall

MIN_SECONDS = 0.5
"""A default measurement goes on at least so long, so that it meets some of the machine's interruptions."""

MAX_SECONDS = 10.0
"""A default measurement stops here, with however many samples it has; so does one with `samples` after MAX_SECONDS_SAMPLES."""

MAX_SECONDS_SAMPLES = 60.0

MAX_SAMPLES = 1_000_000
"""A default measurement stops at so many samples (8 MB)."""

MAX_SAMPLES_ASKED = 10_000_000
"""Most samples that can be asked for, and where a measurement with `seconds` alone stops (80 MB)."""


@dataclass(frozen=True, eq=False)
class Latency:
    """What was measured. Percentiles are samples (rank ceil(q n), nothing interpolated), in microseconds.

    p50_us .. max_us: percentiles and extremes of the n calls. There is no mean: it says little about a tail.
    samples_us: float32 [n], each call, in the order measured. timer_ns: what an empty call costs in the same loop;
        included in every sample, not subtracted.
    bounds: quantile name -> (low, high), each a 99 % bound from order statistics; None where n is too small for one.
    budget, lines, verdict: the verdict is "FAIL" if any line of the budget fails, else "UNDECIDED" if any line is, else
        "PASS"; None without a budget.
    size_bytes, error: as given, or None. environment: the machine and the software. notes: what makes the figures
        doubtful, each with what to do.
    """

    name: str
    n: int
    p50_us: float
    p90_us: float
    p99_us: float
    p999_us: float
    min_us: float
    max_us: float
    timer_ns: float
    bounds: Mapping[str, tuple[float | None, float | None]]
    budget: Budget | None
    verdict: Verdict | None
    lines: tuple[Line, ...]
    size_bytes: int | None
    error: float | None
    environment: Mapping[str, Any]
    notes: tuple[str, ...]
    samples_us: np.ndarray = field(repr=False)

    @classmethod
    def from_samples(
        cls,
        samples_ns: Any,
        *,
        name: str,
        timer_ns: float,
        budget: Budget | None = None,
        size_bytes: int | None = None,
        error: float | None = None,
        notes: tuple[str, ...] = (),
        record: Mapping[str, Any] | None = None,
    ) -> Latency:
        """Percentiles, bounds and verdict of samples in nanoseconds, [n] in the order measured, n >= 1."""
        # A copy, judged in float64: float32 would round a sample across the limit.
        in_order = np.array(samples_ns, dtype=np.float64) / 1e3
        ordered = np.sort(in_order)
        found = {q: estimate(ordered, tail) for q, tail in TAILS.items()}
        lines = () if budget is None else judge(budget, ordered, size_bytes, error)
        samples = in_order.astype(np.float32)
        samples.flags.writeable = False
        return cls(
            name=name,
            n=len(ordered),
            p50_us=found["p50"].value,
            p90_us=found["p90"].value,
            p99_us=found["p99"].value,
            p999_us=found["p999"].value,
            min_us=float(ordered[0]),
            max_us=float(ordered[-1]),
            timer_ns=timer_ns,
            bounds={q: (e.low, e.high) for q, e in found.items()},
            budget=budget,
            verdict=None if budget is None else overall(lines),
            lines=lines,
            size_bytes=size_bytes,
            error=error,
            environment=environment() if record is None else record,
            notes=(*notes, *_doubts(in_order, found["p50"].value, timer_ns)),
            samples_us=samples,
        )

    def raise_for_budget(self, strict: bool = False) -> None:
        """Raises BudgetExceeded with the lines that failed; with `strict`, with the undecided ones too.

        Raises FormatError where there was no budget.
        """
        if self.budget is None:
            raise FormatError("raise_for_budget", "no budget", "a measurement with one", "Pass budget= to measure().")
        bad = [line for line in self.lines if line.verdict == "FAIL" or (strict and line.verdict == "UNDECIDED")]
        if bad:
            got = "; ".join(f"{line.verdict} {line.key}: {line.reason}" for line in bad)
            raise BudgetExceeded(self.name, got, str(self.budget), "See the lines of the result for each bound.")

    def to_dict(self, samples: bool = False) -> dict[str, Any]:
        """JSON values: every field; the samples themselves only when asked for."""
        values: dict[str, Any] = {
            key: getattr(self, key)
            for key in (
                "name", "n", "p50_us", "p90_us", "p99_us", "p999_us", "min_us", "max_us", "timer_ns", "verdict",
                "size_bytes", "error",
            )
        }  # fmt: skip
        values["bounds"] = {q: list(pair) for q, pair in self.bounds.items()}
        values["budget"] = None if self.budget is None else self.budget.as_dict()
        values["lines"] = [vars(line) | {} for line in self.lines]
        values["notes"] = list(self.notes)
        values["environment"] = dict(self.environment)
        if samples:
            values["samples_us"] = [round(float(s), 4) for s in self.samples_us]
        return _finite(values)

    def to_json(self, samples: bool = False, indent: int | None = 2) -> str:
        """`to_dict` as text. A NaN or infinity, which JSON has no word for, becomes null."""
        return json.dumps(self.to_dict(samples), indent=indent, allow_nan=False)

    def __str__(self) -> str:
        return _table(self)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _doubts(in_order: np.ndarray, p50_us: float, timer_ns: float) -> tuple[str, ...]:
    notes = []
    if timer_ns > 100 * p50_us:  # a tenth of the median, in ns
        notes.append(f"the timer takes {timer_ns:.0f} ns of a median of {p50_us * 1e3:.0f} ns; it is not subtracted")
    third = len(in_order) // 3
    if third >= 100:
        first, last = float(np.median(in_order[:third])), float(np.median(in_order[-third:]))
        if max(first, last) > 1.1 * min(first, last):
            notes.append(
                f"the median moved from {first:.4g} us (first third) to {last:.4g} us (last third): the samples are not "
                "independent; fix the clock frequency, leave the machine alone, or warm up longer"
            )
    return tuple(notes)


def _table(result: Latency) -> str:
    judged = {line.key: line for line in result.lines}
    rows = [("", "value", "99 % bounds", "budget", "")]
    for key in ("min_us", "p50_us", "p90_us", "p99_us", "p999_us", "max_us"):
        low, high = result.bounds.get(key.removesuffix("_us"), (None, None))
        bounds = "" if low is None and high is None else f"{_us(low)} .. {_us(high)}"
        rows.append(_row(key.removesuffix("_us"), f"{_us(getattr(result, key))} us", bounds, judged.get(key), " us"))
    for key, value in (("size_bytes", result.size_bytes), ("max_error", result.error)):
        if value is not None or key in judged:
            rows.append(_row(key, "?" if value is None else f"{value:,.6g}", "", judged.get(key), ""))
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    lines = [f"{result.name}: {result.n:,} call{'s' * (result.n > 1)}, timer {result.timer_ns:.0f} ns (not subtracted)"]
    for label, value, bounds, limit, verdict in rows:
        cells = (
            label.ljust(widths[0]),
            value.rjust(widths[1]),
            bounds.rjust(widths[2]),
            limit.rjust(widths[3]),
            verdict,
        )
        lines.append(("  " + "  ".join(cells)).rstrip())
    lines += [f"  {line.verdict} {line.key}: {line.reason}" for line in result.lines]
    lines += [f"  note: {note}" for note in result.notes]
    if result.verdict is not None:
        lines.append(f"  verdict: {result.verdict}")
    return "\n".join(lines)


def _row(label: str, value: str, bounds: str, line: Line | None, unit: str) -> tuple[str, str, str, str, str]:
    if line is None:
        return label, value, bounds, "", ""
    return label, value, bounds, f"<= {line.limit:,.6g}{unit}", line.verdict


def _us(value: float | None) -> str:
    if value is None:
        return "?"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def measure(
    fn: Callable[..., object],
    inputs: Any = (),
    budget: Budget | None = None,
    samples: int | None = None,
    seconds: float | None = None,
    *,
    warmup: float = 0.1,
    size_bytes: int | None = None,
    error: float | None = None,
    name: str | None = None,
    clock: sampler.Clock = time.perf_counter_ns,
) -> Latency:
    """Times `fn(*inputs)`, each call on its own, as the caller sees it: wrapper, conversion and arithmetic together.

    fn: any callable. Work it leaves running on a GPU when it returns is not seen; let it synchronise.
    inputs: a tuple or list of positional arguments, or one argument as it is.
    samples, seconds: how many calls, and for how long at most. Neither: at least 0.5 s and at least the samples that the
        budget's strictest percentile needs (662 for p99, 6,636 for p99.9), until 10 s or 1,000,000 samples.
        `samples` alone stops after 60 s. `seconds` alone stops at 10,000,000 samples. One call is always measured.
    warmup: seconds of calls before that, one call at least.
    size_bytes, error: for a budget's size and max_error. When the budget limits the size and none is given, the
        attribute `weight_bytes` of `fn` is taken, where it has one.
    clock: returns nanoseconds.

    Garbage collection is off during the calls, and torch.no_grad is on if torch is loaded. What `fn` raises goes through
    unchanged. Raises FormatError for samples, seconds, warmup, error, size or budget that make no sense.

    >>> import rtaccel as rt
    >>> rt.measure(sorted, [[3, 1, 2]], budget=rt.Budget(p99_us=10_000), samples=700).verdict
    'PASS'
    """
    _check_arguments(fn, budget, samples, seconds, warmup, size_bytes, error)
    args = tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)
    if size_bytes is None and budget is not None and budget.size_bytes is not None:
        size_bytes = weight_bytes(fn)
    limits = plan_limits(budget, samples, seconds)
    timer_ns = sampler.timer_overhead_ns(args, clock)
    with sampler.no_grad(), sampler.quiet():
        sampler.warm_up(fn, args, warmup, clock)
        taken: array[int] = sampler.sample_ns(fn, args, limits, clock)
    cut = ()
    if len(taken) < limits.min_samples:
        cut = (f"stopped after {limits.max_ns / 1e9:g} s with {len(taken):,} of {limits.min_samples:,} samples",)
    return Latency.from_samples(
        taken,
        name=name or callable_name(fn),
        timer_ns=timer_ns,
        budget=budget,
        size_bytes=size_bytes,
        error=error,
        notes=cut,
    )


def plan_limits(budget: Budget | None, samples: int | None = None, seconds: float | None = None) -> sampler.Limits:
    """When a measurement stops; see `measure`."""
    needed = max((min_samples(TAILS[q]) for q in TAILS if budget and f"{q}_us" in budget.as_dict()), default=1)
    if samples is not None:
        return sampler.Limits(samples, samples, 0, int((MAX_SECONDS_SAMPLES if seconds is None else seconds) * 1e9))
    if seconds is not None:
        return sampler.Limits(1, MAX_SAMPLES_ASKED, int(seconds * 1e9), int(seconds * 1e9))
    return sampler.Limits(needed, MAX_SAMPLES, int(MIN_SECONDS * 1e9), int(MAX_SECONDS * 1e9))


def callable_name(fn: object) -> str:
    """A name for tables: the function's, or the class's of a callable object."""
    return getattr(fn, "__name__", None) or type(fn).__name__


def weight_bytes(fn: object) -> int | None:
    """`fn.weight_bytes`, a number or a method without arguments; None where there is none."""
    found = getattr(fn, "weight_bytes", None)
    return found() if callable(found) else found


def _check_arguments(
    fn: object,
    budget: object,
    samples: object,
    seconds: object,
    warmup: object,
    size_bytes: object,
    error: object,
) -> None:
    def refuse(got: str, expected: str, next_step: str) -> None:
        raise FormatError("measure", got, expected, next_step)

    def number(value: object) -> bool:
        return isinstance(value, (int, float)) and not isinstance(value, bool)

    def finite(value: Any) -> bool:
        return number(value) and math.isfinite(value)

    if not callable(fn):
        refuse(f"fn of type {type(fn).__name__}", "something callable", "Pass the function, not what it returned.")
    if budget is not None and not isinstance(budget, Budget):
        refuse(f"budget of type {type(budget).__name__}", "a Budget", "Pass rt.Budget(p99_us=50), for example.")
    whole = isinstance(samples, int) and not isinstance(samples, bool)
    if samples is not None and not (whole and 1 <= samples <= MAX_SAMPLES_ASKED):  # type: ignore[operator]
        refuse(f"samples={samples!r}", f"a whole number, 1 to {MAX_SAMPLES_ASKED:,}", "A p99 claim needs 662.")
    if seconds is not None and not (finite(seconds) and seconds > 0):  # type: ignore[operator]
        refuse(f"seconds={seconds!r}", "a positive finite number", "Leave it out for the default.")
    if not (finite(warmup) and warmup >= 0):  # type: ignore[operator]
        refuse(f"warmup={warmup!r}", "a finite number of seconds, 0 or above", "0 still makes one call.")
    if size_bytes is not None and not (finite(size_bytes) and size_bytes >= 0):  # type: ignore[operator]
        refuse(f"size_bytes={size_bytes!r}", "a number of bytes", "Leave it out if it is not known.")
    if error is not None and not (number(error) and not error < 0):  # type: ignore[operator]
        refuse(f"error={error!r}", "a number, 0 or above", "Pass the absolute error.")
