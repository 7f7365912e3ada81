"""MLPerf LoadGen over any callable: its scenarios, its rules and its verdict, and ours on the very same queries.

LoadGen (extra `mlperf`) decides when queries come and measures each. SingleStream sends the next one when the last is
answered: latency of a caller who waits. Server sends them at random times (Poisson), whether or not the last is answered,
and counts from the time a query was due: latency of a service, with its queue. Rules: MLPerf Inference, mlcommons/inference,
loadgen; "early stopping" asks for so many queries that the percentile holds with 99 % confidence (662 for p99).
"""

from __future__ import annotations

import importlib
import json
import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rtaccel.core.errors import BackendUnavailable, FormatError, UnsupportedProblem
from rtaccel.measure.budget import Budget
from rtaccel.measure.latency import callable_name
from rtaccel.measure.numbers import figure, is_finite, shown
from rtaccel.measure.result import Latency
from rtaccel.measure.timing import sampler

Scenario = Literal["SingleStream", "Server"]

SCENARIOS: tuple[Scenario, ...] = ("SingleStream", "Server")

PERCENTILE = 0.99
"""Of LoadGen's own verdict, in both scenarios (MLPerf's rule for Server; SingleStream's is 0.9)."""

MAX_QUERIES = 200_000
"""LoadGen's trace takes some 800 bytes of disk for each."""


@dataclass(frozen=True)
class LoadGenResult:
    """valid: LoadGen's verdict ("VALID" or "INVALID"), with its reasons. latency: the same queries, with ours.

    queries, qps: completed. percentile_us: what LoadGen says its percentile is. estimate_us: its early-stopping estimate of
    it, which holds with 99 % confidence (SingleStream; None with too few queries). summary: its own text.
    """

    scenario: Scenario
    valid: bool
    reasons: tuple[str, ...]
    queries: int
    qps: float | None
    percentile_us: float
    estimate_us: float | None
    latency: Latency
    summary: str

    def to_dict(self) -> dict[str, Any]:
        return {
            "scenario": self.scenario, "loadgen": "VALID" if self.valid else "INVALID", "reasons": list(self.reasons),
            "queries": self.queries, "qps": self.qps, "percentile_us": self.percentile_us, "estimate_us": self.estimate_us,
            "latency": self.latency.to_dict(),
        }  # fmt: skip

    def __str__(self) -> str:
        word = "VALID" if self.valid else "INVALID: " + " ".join(self.reasons)
        head = f"LoadGen {self.scenario}: {word}, p{100 * PERCENTILE:g} {figure(self.percentile_us)} us, {self.queries:,} queries"
        return f"{head}\n{self.latency}"


def unavailable() -> str | None:
    """None, or why LoadGen cannot run here."""
    try:
        importlib.import_module("mlperf_loadgen")
    except ImportError as error:
        return f"mlcommons-loadgen cannot be imported: {error} (pip install 'rtaccel[mlperf]')"
    return None


def run_loadgen(
    fn: Callable[..., object],
    samples: Sequence[Any],
    scenario: Scenario = "SingleStream",
    budget: Budget | None = None,
    *,
    qps: float | None = None,
    seconds: float = 2.0,
    name: str | None = None,
    size_bytes: int | None = None,
    error: float | None = None,
    expected_us: float | None = None,
) -> LoadGenResult:
    """Runs one scenario over `fn(*sample)`, in this thread.

    samples: inputs of calls, each a tuple or list of arguments, or one argument; LoadGen picks among them at random.
    budget: its p99_us is also LoadGen's target latency in Server, which needs one.
    qps: queries per second that Server sends, on average.
    seconds: how long at least.
    expected_us: of a query, to know how many to prepare; measured where it is not given.

    Raises BackendUnavailable where LoadGen is not installed, FormatError for a scenario, samples, qps or seconds that make no
    sense, or so many queries that their record would not fit. What `fn` raises stops the run and goes through.
    """
    _check(fn, samples, scenario, budget, qps, seconds, expected_us)
    if (reason := unavailable()) is not None:
        raise BackendUnavailable("loadgen", scenario, "mlcommons-loadgen", reason)
    calls = [tuple(s) if isinstance(s, (tuple, list)) else (s,) for s in samples]
    with sampler.no_grad(), sampler.quiet():
        estimate_ns = sampler.warm_up(fn, calls[0], 0.05)
        expected_ns = estimate_ns if expected_us is None else expected_us * 1e3
        rate = qps if scenario == "Server" and qps else 1e9 / max(expected_ns, 1.0)
        if rate * seconds > MAX_QUERIES:
            got = f"{rate * seconds:,.0f} queries in {seconds:g} s"
            raise FormatError("loadgen", got, f"at most {MAX_QUERIES:,}", f"seconds={MAX_QUERIES / rate:.2g} fits.")
        with tempfile.TemporaryDirectory() as folder:
            failure = _start(fn, calls, scenario, budget, rate, seconds, expected_ns, Path(folder))
            if failure is not None:
                raise failure
            summary = (Path(folder) / "mlperf_log_summary.txt").read_text()
            detail = (Path(folder) / "mlperf_log_detail.txt").read_text()
            latencies = trace_latencies_ns((Path(folder) / "mlperf_log_trace.json").read_text())
    return read_result(scenario, summary, detail, latencies, name or callable_name(fn), budget,
                       size_bytes, error)  # fmt: skip


def _check(
    fn: object, samples: Any, scenario: str, budget: Budget | None, qps: Any, seconds: Any, expected_us: Any
) -> None:
    def refuse(got: str, expected: str, step: str) -> None:
        raise FormatError("loadgen", got, expected, step)

    if not callable(fn):
        refuse(f"fn of type {type(fn).__name__}", "something callable", "Pass the function itself.")
    if scenario not in SCENARIOS:
        refuse(f"scenario {shown(scenario)}", " or ".join(SCENARIOS), "Others are for throughput.")
    if not hasattr(samples, "__len__") or not hasattr(samples, "__getitem__"):
        refuse(f"samples of type {type(samples).__name__}", "a list of inputs of calls", "Pass [x], for example.")
    if len(samples) == 0:
        refuse("no samples", "inputs of at least one call", "Pass [x], for example.")
    if budget is not None and not isinstance(budget, Budget):
        refuse(f"budget of type {type(budget).__name__}", "a Budget", "Pass rt.Budget(p99_us=50), for example.")
    if not (is_finite(seconds) and seconds > 0):
        refuse(f"seconds={shown(seconds)}", "a positive number", "2 is a start; MLPerf itself asks for 600.")
    if scenario == "Server" and (budget is None or budget.p99_us is None):
        refuse(f"Server with budget {budget}", "a budget with p99_us, its target", "Pass rt.Budget(p99_us=...).")
    if expected_us is not None and not (is_finite(expected_us) and expected_us > 0):
        refuse(f"expected_us={shown(expected_us)}", "a positive number", "Leave it out: it is measured.")
    if scenario == "Server" and not (is_finite(qps) and qps > 0):
        refuse(
            f"Server with qps={shown(qps)}",
            "queries per second",
            "A single thread keeps up to about half of 1 / latency.",
        )
    if scenario == "SingleStream" and qps is not None:
        refuse(f"SingleStream with qps={shown(qps)}", "none: it sends when the last is answered", "Leave it out.")


def _start(
    fn: Callable[..., object],
    calls: Sequence[tuple[Any, ...]],
    scenario: Scenario,
    budget: Budget | None,
    rate: float,
    seconds: float,
    expected_ns: float,
    folder: Path,
) -> BaseException | None:
    """One test, with its logs in the folder; gives back what `fn` raised: LoadGen's threads must not see it."""
    lg: Any = importlib.import_module("mlperf_loadgen")
    failures: list[BaseException] = []

    def issue(queries: Any) -> None:
        for query in queries:
            if not failures:  # once it failed the rest is answered at once, and the test ends
                try:
                    fn(*calls[query.index])
                except BaseException as error:
                    failures.append(error)
            lg.QuerySamplesComplete([lg.QuerySampleResponse(query.id, 0, 0)])

    settings = lg.TestSettings()
    settings.scenario = getattr(lg.TestScenario, scenario)
    settings.mode = lg.TestMode.PerformanceOnly
    settings.min_duration_ms = max(1, round(seconds * 1e3))
    settings.max_duration_ms = 20 * settings.min_duration_ms
    settings.max_query_count = MAX_QUERIES
    settings.min_query_count = 1
    settings.single_stream_expected_latency_ns = max(1, round(expected_ns))
    settings.single_stream_target_latency_percentile = PERCENTILE
    settings.server_target_qps = rate
    settings.server_target_latency_percentile = PERCENTILE
    if budget is not None and budget.p99_us is not None:
        settings.server_target_latency_ns = round(budget.p99_us * 1e3)
    output = lg.LogOutputSettings()
    output.outdir = str(folder)
    output.copy_summary_to_stdout = False
    log = lg.LogSettings()
    log.log_output = output
    log.enable_trace = True
    sut = lg.ConstructSUT(issue, lambda: None)
    qsl = lg.ConstructQSL(len(calls), len(calls), lambda indices: None, lambda indices: None)
    try:
        lg.StartTestWithLogSettings(sut, qsl, settings, log, "")
    finally:
        lg.DestroyQSL(qsl)
        lg.DestroySUT(sut)
    return failures[0] if failures else None


_SAMPLE = re.compile(r'"name":"Sample","cat":"default","ph":"b".*?"issue_start_ns":(\d+),"complete_ns":(\d+)')


def trace_latencies_ns(text: str) -> np.ndarray:
    """From LoadGen's trace, [queries] in the order they were answered: ns from the time a query was due."""
    return np.array([int(done) for _, done in _SAMPLE.findall(text)], dtype=np.float64)


def read_result(
    scenario: Scenario,
    summary: str,
    detail: str,
    latencies_ns: np.ndarray,
    name: str,
    budget: Budget | None = None,
    size_bytes: int | None = None,
    error: float | None = None,
) -> LoadGenResult:
    """From the files that LoadGen writes. Raises UnsupportedProblem where they do not hold a finished run."""
    entries = _entries(detail)
    if "result_validity" not in entries or not len(latencies_ns):
        raise UnsupportedProblem("loadgen", "a run without a result", "a finished run", f"It said: {summary[-500:]}")
    estimate = entries.get("early_stopping_latency_ss")
    percentile = entries[f"result_{100 * PERCENTILE:.2f}_percentile_latency_ns"]
    met = {
        "result_perf_constraints_met": "latency constraint not met.",
        "result_min_duration_met": "too short.",
        "result_min_queries_met": "too few queries.",
        "early_stopping_met": "too few queries for its confidence.",
    }
    reasons = [text for key, text in met.items() if entries.get(key) is False]
    qps = entries.get("result_completed_samples_per_sec", entries.get("result_qps_with_loadgen_overhead"))
    latency = Latency.from_samples(
        latencies_ns, name=name, timer_ns=0.0, budget=budget, size_bytes=size_bytes, error=error,
        notes=("times are LoadGen's, its own calls included",),
    )  # fmt: skip
    return LoadGenResult(
        scenario, entries["result_validity"] == "VALID", tuple(reasons), int(entries["result_query_count"]), qps,
        percentile / 1e3, estimate / 1e3 if estimate else None, latency, summary,
    )  # fmt: skip


def _entries(detail: str) -> dict[str, Any]:
    """key -> value of the lines `:::MLLOG {...}`."""
    found = {}
    for line in detail.splitlines():
        if line.startswith(":::MLLOG "):
            entry = json.loads(line.removeprefix(":::MLLOG "))
            found[entry["key"]] = entry["value"]
    return found
