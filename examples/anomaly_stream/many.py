"""Ten thousand streams at once: what a call costs, and that each stream scores as if it were alone."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

import rtaccel as rt
from examples.anomaly_stream.nab import Series

F64 = NDArray[np.float64]

START, STEP = 1.4e9, 300.0
"""Times of the streams in seconds: their own do not agree."""


@dataclass(frozen=True)
class Many:
    """Times of a call in us; bytes of a stream's state; streams that did not score as alone."""

    streams: int
    calls: int
    call_us_min: float
    call_us_p50: float
    call_us_p99: float
    bytes_per_stream: float
    missing: int
    different: int


def values_of(series: Sequence[Series], streams: int, steps: int, seed: int = 0) -> F64:
    """[steps, streams]: parts of the series from random rows on, scaled, with 1 in 100 values missing."""
    rng = np.random.default_rng(seed)
    out = np.empty((steps, streams))
    for stream in range(streams):
        one = series[stream % len(series)].values
        first = int(rng.integers(0, max(len(one) - steps, 1)))
        out[:, stream] = np.resize(one[first : first + steps], steps) * rng.uniform(0.5, 2.0)
    out[rng.random(out.shape) < 0.01] = np.nan
    return out


def run(series: Sequence[Series], streams: int, steps: int) -> Many:
    values = values_of(series, streams, steps)
    detector = rt.online.Records(streams=streams)
    scores, took = np.empty(values.shape), []
    for step in range(steps):
        begin = time.perf_counter_ns()
        row = detector.score_many(values[step], START + STEP * step)
        took.append((time.perf_counter_ns() - begin) / 1e3)
        scores[step] = row
    times = START + STEP * np.arange(steps)
    checked = range(0, streams, max(streams // 200, 1))
    different = sum(
        not np.array_equal(scores[:, s], rt.online.Records().score_series(values[:, s].copy(), times), equal_nan=True)
        for s in checked
    )
    settled = np.array(took[steps // 4 :])  # the first calls touch the memory of the states
    return Many(
        streams,
        steps,
        float(settled.min()),
        float(np.median(settled)),
        float(np.percentile(settled, 99)),
        detector.state_bytes / streams,
        sum(detector.missing(s) for s in range(streams)),
        different,
    )


def ns_per_value(series: Series, rounds: int = 5) -> float:
    """Of one series in one call, the smallest of some rounds."""
    best = float("inf")
    for _ in range(rounds):
        detector = rt.online.Records()
        begin = time.perf_counter_ns()
        detector.score_series(series.values, series.seconds)
        best = min(best, (time.perf_counter_ns() - begin) / len(series.values))
    return best
