"""LoadGen's scenarios: its verdict and ours on the same queries; its files read right; bad input refused."""

from __future__ import annotations

import sys
import time

import numpy as np
import pytest
import torch
from torch import nn

import rtaccel as rt
from rtaccel.core.errors import BackendUnavailable, FormatError, UnsupportedProblem
from rtaccel.measure import loadgen
from rtaccel.measure.loadgen import read_result, run_loadgen, trace_latencies_ns

REASON = loadgen.unavailable()

installed = pytest.mark.skipif(REASON is not None, reason=str(REASON))


def entry(key: str, value: str) -> str:
    return f':::MLLOG {{"key": "{key}", "value": {value}, "time_ms": 1.0, "metadata": {{}}}}\n'


DETAIL = (
    entry("result_validity", '"INVALID"')
    + entry("result_perf_constraints_met", "false")
    + entry("result_min_duration_met", "true")
    + entry("early_stopping_met", "false")
    + entry("result_query_count", "3")
    + entry("result_completed_samples_per_sec", "12.5")
    + entry("result_99.00_percentile_latency_ns", "30000")
)

TRACE = """{"traceEvents":[
{"name":"Sample","cat":"default","ph":"b","pid":1,"id":0,"ts":2.7,"args":{"sample_seq":0,"query_seq":0,"sample_idx":1,"issue_start_ns":281,"complete_ns":10000}},
{"name":"Sample","cat":"default","ph":"e", "pid":1,"id":0,"ts":12.4},
{"name":"Sample","cat":"default","ph":"b","pid":1,"id":1,"ts":9.7,"args":{"sample_seq":1,"query_seq":1,"sample_idx":0,"issue_start_ns":5,"complete_ns":30000}},
{"name":"QuerySamplesComplete","ph":"X","pid":1,"tid":1,"ts":2757.460,"dur":3.935,"args":{}},
"""


def test_files_are_read() -> None:
    latencies = trace_latencies_ns(TRACE)
    assert latencies.tolist() == [10_000, 30_000]
    found = read_result("Server", "text", DETAIL, latencies, "model", rt.Budget(p50_us=5))
    assert not found.valid
    assert found.reasons == ("latency constraint not met.", "too few queries for its confidence.")
    assert (found.queries, found.qps, found.percentile_us, found.estimate_us) == (3, 12.5, 30.0, None)
    assert (found.latency.n, found.latency.max_us) == (2, 30.0)
    assert "INVALID: latency constraint not met." in str(found)
    assert found.to_dict()["loadgen"] == "INVALID"


def test_a_run_that_did_not_finish_is_refused() -> None:
    with pytest.raises(UnsupportedProblem, match="without a result"):
        read_result("Server", "it broke off", "", np.array([1.0]), "model")
    with pytest.raises(UnsupportedProblem, match="without a result"):
        read_result("Server", "", DETAIL, np.array([]), "model")


@installed
def test_single_stream_over_a_compiled_model() -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4)).eval()
    fast = rt.compile(model, (torch.randn(1, 64),))
    seen: list[int] = []
    samples = [torch.full((1, 64), float(i)) for i in range(4)]

    def answer(x: torch.Tensor) -> None:
        seen.append(int(x[0, 0]))
        fast(x)
        time.sleep(0.0002)

    found = run_loadgen(answer, samples, budget=rt.Budget(p50_us=1e6, p99_us=1e6), seconds=0.4)
    assert found.valid, found.summary
    assert found.latency.verdict == "PASS"
    assert found.latency.n == found.queries >= 662
    assert set(seen) == {0, 1, 2, 3}
    # The same queries: LoadGen's percentile is one of our samples.
    assert np.isclose(found.latency.samples_us, found.percentile_us, rtol=1e-3).any()
    assert found.estimate_us is not None and found.estimate_us >= found.percentile_us


@installed
def test_server_counts_from_when_a_query_was_due() -> None:
    """Each takes 2 ms and they come every 1 ms: the queue grows, and so do latencies, which a closed loop never shows."""
    found = run_loadgen(
        lambda x: time.sleep(0.002), [1], "Server", rt.Budget(p99_us=5_000), qps=1_000, seconds=0.3, expected_us=2_000
    )
    assert not found.valid
    assert "latency constraint not met." in found.reasons
    assert found.latency.verdict == "FAIL"
    assert found.latency.max_us > 50_000


@installed
def test_what_the_model_raises_goes_through() -> None:
    calls = 0

    def late(x: int) -> None:
        nonlocal calls
        calls += 1
        if calls > 2_000:
            raise ZeroDivisionError("late")

    with pytest.raises(ZeroDivisionError, match="late"):
        run_loadgen(late, [1], seconds=0.2, expected_us=10)


@pytest.mark.parametrize(
    "given",
    [
        {"scenario": "Offline"},
        {"samples": []},
        {"seconds": 0},
        {"scenario": "Server", "qps": 10},
        {"scenario": "Server", "budget": rt.Budget(p99_us=5)},
        {"scenario": "Server", "budget": rt.Budget(p50_us=5), "qps": 10},
        {"qps": 10},
    ],
)
def test_bad_input(given: dict[str, object]) -> None:
    with pytest.raises(FormatError, match="loadgen"):
        run_loadgen(lambda x: None, **{"samples": [1], **given})  # type: ignore[arg-type]


@installed
def test_more_queries_than_can_be_recorded_are_refused() -> None:
    with pytest.raises(FormatError, match="queries in"):
        run_loadgen(lambda x: None, [1], seconds=60)


def test_where_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlperf_loadgen", None)
    with pytest.raises(BackendUnavailable, match="mlperf"):
        run_loadgen(lambda x: None, [1])
