"""What a measurement found: percentiles with bounds, the verdict, the samples and the record of the machine."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rtaccel.core.errors import BudgetExceeded, FormatError
from rtaccel.measure.budget import Budget
from rtaccel.measure.machine.environment import environment
from rtaccel.measure.machine.witness import Witness
from rtaccel.measure.numbers import figure, shown
from rtaccel.measure.rendering.tables import Table, Tabled, dataframe
from rtaccel.measure.statistics.quantiles import TAILS, estimate
from rtaccel.measure.statistics.run import Run
from rtaccel.measure.statistics.steady import steady_from
from rtaccel.measure.verdict import Line, Verdict, judge, overall, withhold


@dataclass(frozen=True, eq=False)
class Latency(Tabled):
    """What was measured. Percentiles are samples (rank ceil(q n), nothing interpolated), in microseconds.

    p50_us .. max_us: percentiles and extremes of the n calls. There is no mean: it says little about a tail.
    samples_us: float32 [n], each call, in the order measured.
    timer_ns: the time of an empty call in the same loop; included in every sample, not subtracted.
    bounds: quantile name -> (low, high), each a 99 % bound; None where the run is too short for one.
    budget, lines, verdict: the verdict is "FAIL" if any line of the budget fails, else "UNDECIDED" if any line is, else
        "PASS"; None without a budget. In a test that could not be timed, lines and verdict may be "NOT TIMED".
    size_bytes, error, metric: as given, or None.
    environment: the machine and the software.
    notes: what makes the figures doubtful, each with what to do.
    mode: what the calls met: "warm", "cold caches", "cold start", with the period of an open loop; "not timed" for one call
        of a test that could not be timed.
    witness: the machine's own noise in the same windows, where it was asked for.
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
    metric: float | None = None
    mode: str = "warm"
    witness: Witness | None = None

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
        metric: float | None = None,
        notes: tuple[str, ...] = (),
        record: Mapping[str, Any] | None = None,
        withheld: str | None = None,
        mode: str = "warm",
        witness: Witness | None = None,
        peak_bytes: int | None = None,
        joules: float | None = None,
    ) -> Latency:
        """Percentiles, bounds and verdict of samples in nanoseconds, [n] in the order measured, n >= 1.

        withheld: why no latency may pass, whatever the samples say; None for no such reason.
        """
        # A copy, judged in float64: float32 would round a sample across the limit.
        in_order = _times(samples_ns) / 1e3
        run = Run(in_order)
        ordered = run.ordered
        found = {q: estimate(ordered, tail) for q, tail in TAILS.items()}
        lines = () if budget is None else judge(budget, run, size_bytes, error, metric, peak_bytes, joules)
        if withheld:
            notes = (*notes, withheld)
            lines = withhold(lines, withheld)
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
            bounds={q: run.bounds(tail) for q, tail in TAILS.items()},
            budget=budget,
            verdict=None if budget is None else overall(lines),
            lines=lines,
            size_bytes=size_bytes,
            error=error,
            environment=environment() if record is None else record,
            notes=(*notes, *_doubts(in_order, found["p50"].value, timer_ns)),
            samples_us=samples,
            metric=metric,
            mode=mode,
            witness=witness,
        )

    def raise_for_budget(self, strict: bool = False) -> None:
        """Raises BudgetExceeded with the lines that failed; with `strict`, with all that are not proved.

        Raises FormatError where there was no budget.
        """
        if self.budget is None:
            raise FormatError("raise_for_budget", "no budget", "a measurement with one", "Pass budget= to measure().")
        bad = [line for line in self.lines if line.verdict == "FAIL" or (strict and line.verdict != "PASS")]
        if bad:
            got = "; ".join(f"{line.verdict} {line.key}: {line.reason}" for line in bad)
            raise BudgetExceeded(self.name, got, str(self.budget), "See the lines of the result for each bound.")

    def to_dict(self, samples: bool = False) -> dict[str, Any]:
        """JSON values: every field; the samples themselves only when asked for."""
        values: dict[str, Any] = {
            key: getattr(self, key)
            for key in (
                "name", "n", "p50_us", "p90_us", "p99_us", "p999_us", "min_us", "max_us", "timer_ns", "verdict",
                "size_bytes", "error", "metric", "mode",
            )
        }  # fmt: skip
        values["bounds"] = {q: list(pair) for q, pair in self.bounds.items()}
        values["budget"] = None if self.budget is None else self.budget.as_dict()
        values["lines"] = [vars(line) | {} for line in self.lines]
        values["notes"] = list(self.notes)
        values["environment"] = dict(self.environment)
        values["witness"] = None if self.witness is None else self.witness.to_dict()
        if samples:
            values["samples_us"] = [round(float(s), 4) for s in self.samples_us]
        return _finite(values)

    def to_json(self, samples: bool = False, indent: int | None = 2) -> str:
        """`to_dict` as text. A NaN or infinity, which JSON has no word for, becomes null."""
        return json.dumps(self.to_dict(samples), indent=indent, allow_nan=False)

    def records(self) -> list[dict[str, Any]]:
        """One flat row: figures, bounds as p99_low_us and p99_high_us, limits as limit_p99_us, the verdict."""
        keys = ("name", "n", "min_us", "p50_us", "p90_us", "p99_us", "p999_us", "max_us", "timer_ns", "mode", "verdict")
        row: dict[str, Any] = {key: getattr(self, key) for key in keys}
        for q, (low, high) in self.bounds.items():
            row |= {f"{q}_low_us": low, f"{q}_high_us": high}
        row |= {"size_bytes": self.size_bytes, "error": self.error, "metric": self.metric}
        return [row | {f"limit_{key}": limit for key, limit in (self.budget.as_dict() if self.budget else {}).items()}]

    def to_dataframe(self, samples: bool = False) -> Any:
        """A pandas DataFrame: one row of figures; with `samples`, a row for each call, in the order measured.

        Raises BackendUnavailable where pandas is not installed.
        """
        if not samples:
            return dataframe(self.records())
        return dataframe([{"name": self.name, "call": i, "us": us} for i, us in enumerate(self.samples_us.tolist())])

    def table(self) -> Table:
        """What `print` and a notebook show."""
        head, *rows = figure_rows(self)
        notes = [f"{line.verdict} {line.key}: {line.reason}" for line in self.lines]
        notes += [f"note: {note}" for note in self.notes]
        verdict = "" if self.verdict is None else f", {self.verdict}"
        return Table(f"{self.name}: {self.n:,} calls{verdict}", head, rows, notes=notes)

    def __str__(self) -> str:
        return _text(self)


def _times(samples_ns: Any) -> np.ndarray:
    """A copy, float64 [n]. Raises FormatError for what is none of that, and for samples that are no times."""
    try:
        found = np.array(samples_ns, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as problem:
        raise FormatError("from_samples", shown(samples_ns), "nanoseconds, [n]", "Pass an array of them.") from problem
    if found.ndim != 1 or not len(found):
        raise FormatError("from_samples", f"an array {list(found.shape)}", "[n], n at least 1", "Flatten it.")
    if not (np.isfinite(found).all() and (found >= 0).all()):
        raise FormatError("from_samples", "samples that are NaN, infinite or negative", "times", "Check the clock.")
    return found


def check_results(results: Any, title: Any) -> None:
    """What the reports take. Raises FormatError for anything but a list of `Latency`, for an empty one, and a title that is no
    text."""
    if not isinstance(title, str):
        raise FormatError("report", f"title={shown(title)}", "a text", "Say what was measured.")
    if isinstance(results, Latency) or not isinstance(results, Sequence) or isinstance(results, (str, bytes)):
        raise FormatError("report", f"results of type {type(results).__name__}", "a list of Latency", "Write [result].")
    if not results:
        raise FormatError("report", "no results", "at least one Latency", "Measure something first.")
    if wrong := [type(r).__name__ for r in results if not isinstance(r, Latency)]:
        raise FormatError(
            "report", f"results with {', '.join(wrong[:5])}", "Latency alone", "Pass what measure() returned."
        )


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
            steady = steady_from(in_order)
            since = f" and is steady from call {steady:,} on" if steady else ""
            notes.append(
                f"the median moved from {figure(first)} us (first third) to {figure(last)} us (last third){since}: fix the clock "
                "frequency, leave the machine alone, or warm up longer"
            )
    return tuple(notes)


def figure_rows(result: Latency) -> list[tuple[str, str, str, str, str]]:
    """Label, value, bounds, limit and verdict of each figure; the first row is the head."""
    judged = {line.key: line for line in result.lines}
    rows = [("", "value", "99 % bounds", "budget", "")]
    for key in ("min_us", "p50_us", "p90_us", "p99_us", "p999_us", "max_us"):
        low, high = result.bounds.get(key.removesuffix("_us"), (None, None))
        bounds = "" if low is None and high is None else f"{_us(low)} .. {_us(high)}"
        rows.append(_row(key.removesuffix("_us"), f"{_us(getattr(result, key))} us", bounds, judged.get(key), " us"))
    exact = {"size_bytes": result.size_bytes, "max_error": result.error, "min_metric": result.metric}
    for key, value in exact.items():
        if value is not None or key in judged:
            rows.append(_row(key, "?" if value is None else figure(value, 6), "", judged.get(key), ""))
    return rows


def _text(result: Latency) -> str:
    rows = figure_rows(result)
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    mode = "" if result.mode == "warm" else f", {result.mode}"
    plural = "s" * (result.n > 1)
    lines = [f"{result.name}: {result.n:,} call{plural}, timer {result.timer_ns:.0f} ns (not subtracted){mode}"]
    for row in rows:
        cells = (row[0].ljust(widths[0]), *(row[i].rjust(widths[i]) for i in (1, 2, 3)), row[4])
        lines.append(("  " + "  ".join(cells)).rstrip())
    lines += [f"  {line.verdict} {line.key}: {line.reason}" for line in result.lines]
    if result.witness is not None:
        lines.append(f"  {result.witness}")
    lines += [f"  note: {note}" for note in result.notes]
    if result.verdict is not None:
        lines.append(f"  verdict: {result.verdict}")
    return "\n".join(lines)


def _row(label: str, value: str, bounds: str, line: Line | None, unit: str) -> tuple[str, str, str, str, str]:
    if line is None:
        return label, value, bounds, "", ""
    sign = ">=" if line.key.startswith("min_") else "<="
    return label, value, bounds, f"{sign} {figure(line.limit, 6)}{unit}", line.verdict


def _us(value: float | None) -> str:
    if value is None:
        return "?"
    return figure(value)
