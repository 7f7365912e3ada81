"""Times of calls that are shorter than a clock: rounds of many, of which the smallest mean tells the call from the machine."""

from __future__ import annotations

import time
from collections.abc import Callable

import rtaccel as rt


def per_call_us(call: Callable[[], object], calls: int, rounds: int) -> tuple[float, float]:
    """(smallest, median) over rounds of the mean time of a call in us."""
    means = []
    for _ in range(rounds):
        begin = time.perf_counter_ns()
        for _ in range(calls):
            call()
        means.append((time.perf_counter_ns() - begin) / calls / 1e3)
    means.sort()
    return means[0], means[len(means) // 2]


def p99_us(call: Callable[[], object], samples: int = 5000) -> float:
    """The 99th percentile of single calls, by `rt.measure`."""
    return float(rt.measure(call, (), samples=samples).p99_us)
