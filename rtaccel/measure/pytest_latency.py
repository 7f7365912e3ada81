"""The fixture `latency` of the pytest plugin: one measurement per test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from rtaccel.core.errors import FormatError
from rtaccel.measure import latency
from rtaccel.measure.budget import Budget
from rtaccel.measure.numbers import figure
from rtaccel.measure.pytest_plugin import BUDGETS, RESULTS, ROWS
from rtaccel.measure.timing import sampler
from rtaccel.measure.timing.gpu import prepare
from rtaccel.measure.timing.inputs import score
from rtaccel.measure.verdict import not_timed, overall

ROUNDS_MAX = 100_000
"""pytest-benchmark keeps each round as a Python float and sorts them for its own table."""

NOT_TIMED = "not timed"
"""Mode of the one call of a test that could not be timed."""

_TIMES = ("p50_us", "p99_us", "p999_us", "max_us")

_PROPERTIES = ("n", "p50_us", "p99_us", "p999_us", "max_us", "verdict")


class LatencyFixture:
    """`latency(fn, *args, ...)` -> Latency. Once per test. result: what it measured; record: its plain values."""

    def __init__(self, node: Any, benchmark: Any, marked: Budget | None) -> None:
        self._node = node
        self._benchmark = benchmark  # None where pytest-benchmark is not there
        self.marked = marked
        self.result: Any = None
        self.record: dict[str, Any] = {}

    def __call__(
        self,
        fn: Callable[..., object],
        *args: Any,
        name: str | None = None,
        size_bytes: int | None = None,
        error: Any = None,
        metric: Any = None,
        mode: str = "cpu",
        samples: int | None = None,
        seconds: float | None = None,
        **how: Any,
    ) -> latency.Latency:
        """Measures `fn(*args)`. The verdict falls when the test ends.

        name: of the row in the budgets file and in the table; the test's own if not given.
        mode: "cpu", or how a CUDA device is used, "stream", "graph" or "persistent" (`rtaccel.measure.timing.gpu`).

        The rest is as in `rtaccel.measure`: size_bytes, error, metric, samples, seconds, warmup, setup, period_us, cold_cache,
        witness, inside.

        Raises BackendUnavailable where a CUDA device is asked for and there is none, and what `rtaccel.measure` raises.
        """
        if self.result is not None:
            raise pytest.UsageError("latency() was called twice in one test; parametrize the test instead")
        budget, said = self._budget(name)
        if size_bytes is None and budget is not None and budget.size_bytes is not None:
            size_bytes = latency.weight_bytes(fn)
        options = latency.How(**how)
        latency.check_arguments(
            fn, budget, samples, seconds, options.warmup, size_bytes, error, metric, options.setup, options.period_us
        )
        options.check(fn, args)
        if mode != "cpu" and options.setup is not None:
            expected = "a call on tensors that stay where they are"
            raise FormatError("latency", f"setup with mode={mode!r}", expected, "Leave one out.")
        given = {"name": name or self._node.name, "size_bytes": size_bytes, "error": error, "metric": metric}
        untimed = self._untimed()
        if untimed is not None:
            result = self._once(fn, args, budget, options, given, untimed)
        else:
            limits = latency.plan_limits(budget, samples, seconds)
            if self._benchmark is not None and samples is None:
                limits = replace(limits, max_samples=max(ROUNDS_MAX, limits.min_samples))
            result = self._measured(fn, args, budget, options, limits, mode, given)
        result = result if said is None else replace(result, notes=(*result.notes, said))
        self._keep(result)
        return result

    def has_budget(self) -> bool:
        """Whether a marker or a row of the budgets file is for this test, as far as its own name tells."""
        return self._budget(None)[0] is not None

    def _untimed(self) -> str | None:
        """Why calls are not timed in this session; None where they are."""
        if hasattr(self._node.config, "workerinput"):
            return "tests run side by side under pytest-xdist; run these with -n 0"
        if self._benchmark is not None and not self._benchmark.enabled:
            return "pytest-benchmark is disabled; run these with --benchmark-enable"
        return None

    def _budget(self, name: str | None) -> tuple[Budget | None, str | None]:
        """The budget of this test, and the sentence to be said where it was scaled for this machine."""
        here = self._node.config.stash[BUDGETS]
        rows = {} if here is None else here.rows
        found = next((n for n in (name, self._node.nodeid, self._node.name) if n in rows), None)
        if found is None:
            return self.marked, None
        return rows[found], here.said if found in here.scaled else None

    def _measured(
        self,
        fn: Callable[..., object],
        args: tuple[Any, ...],
        budget: Budget | None,
        how: latency.How,
        limits: sampler.Limits,
        mode: str,
        given: dict[str, Any],
    ) -> latency.Latency:
        if mode == "cpu":
            result = latency.measure_within(limits, fn, args, budget, how, **given)
        else:
            prepared = prepare(fn, args, mode)
            if callable(given["error"]) or callable(given["metric"]):
                found = fn(*args)
                given |= {key: score(given[key], found, key) for key in ("error", "metric")}
            result = latency.measure_within(limits, prepared.call, (), budget, how, **given)
            notes = result.notes
            if prepared.device_us is not None:
                alone = np.sort(prepared.device_us())
                p99 = alone[len(alone) - 1 - len(alone) // 100]
                notes += (
                    f"on the device alone: p50 {figure(float(np.median(alone)))} us, p99 {figure(float(p99))} us of "
                    f"{len(alone)} calls",
                )
            result = replace(result, mode=f"CUDA {mode}, {result.mode}", notes=notes)
        if self._benchmark is not None:
            self._tell_benchmark(fn, args, how, result)
        return result

    def _tell_benchmark(
        self, fn: Callable[..., object], args: tuple[Any, ...], how: latency.How, result: latency.Latency
    ) -> None:
        """Makes every sample a round. One call opens pytest-benchmark's own book; its time gives way to the samples."""
        fresh = args if how.setup is None else latency.arguments(how.setup())
        with sampler.no_grad():
            self._benchmark.pedantic(fn, args=fresh, rounds=1, iterations=1)
        rounds = self._benchmark.stats.stats
        rounds.data.clear()
        for ns in np.rint(result.samples_us * 1e3).tolist():
            rounds.update(ns / 1e9)

    def _once(
        self,
        fn: Callable[..., object],
        args: tuple[Any, ...],
        budget: Budget | None,
        how: latency.How,
        given: dict[str, Any],
        reason: str,
    ) -> latency.Latency:
        """One call that is not timed: its result is there to be judged, and no latency is."""
        args = args if how.setup is None else latency.arguments(how.setup())
        with sampler.no_grad():
            before = sampler.CLOCK()
            found = fn(*args) if self._benchmark is None else self._benchmark.pedantic(fn, args=args)
            taken = sampler.CLOCK() - before
        sampler.check_ran(found)
        given |= {key: score(given[key], found, key) for key in ("error", "metric")}
        timeless = None if budget is None else budget.without_time()
        result = latency.Latency.from_samples([taken], timer_ns=0.0, budget=timeless, mode=NOT_TIMED, **given)
        if budget is None:
            return result
        lines = not_timed(budget, result.lines, reason)
        return replace(result, budget=budget, lines=lines, verdict=overall(lines))

    def _keep(self, result: latency.Latency) -> None:
        self.result = result
        self.record = record = plain(result) | {"untimed": self._untimed()}
        self._node.config.stash[RESULTS].append(result)
        self._node.config.stash[ROWS].measured(self._node.nodeid, result.name)
        self._node.user_properties += [(key, record[key]) for key in _PROPERTIES if record[key] is not None]
        if self._benchmark is not None and self._benchmark.enabled:
            self._benchmark.extra_info.update(record)


def plain(result: latency.Latency) -> dict[str, Any]:
    """What extra_info, JUnit and the summary hold: plain values, flat where a figure is compared."""
    untimed = result.mode == NOT_TIMED
    unproven = [f"{line.key}: {line.reason}" for line in result.lines if line.verdict != "PASS"]
    keys = ("name", "n", "p50_us", "p99_us", "p999_us", "max_us", "timer_ns", "size_bytes", "error", "metric", "mode")
    record = {key: None if untimed and key in _TIMES else getattr(result, key) for key in (*keys, "verdict")}
    misses = [] if result.witness is None else list(map(str, result.witness.misses))
    return record | {"budget": result.budget and result.budget.as_dict(), "reasons": unproven, "misses": misses}
