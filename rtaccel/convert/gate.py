"""Is the swapped layer faster than the one it replaces? Measured on the spot, in some milliseconds a layer."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from time import perf_counter_ns
from typing import Any

import torch
from torch import Tensor

ROUNDS = 40
LEAST_ROUNDS = 9
BUDGET_NS = 40_000_000
"""Time that one comparison may take, as long as LEAST_ROUNDS of them are made."""


def compare(before: Callable[[Any], Any], after: Callable[[Any], Any], x: Tensor) -> tuple[float, float]:
    """Median time of a call of each, in us. Called in turn, in alternating order, so that both meet the same noise."""
    wait = torch.cuda.synchronize if x.is_cuda else _nothing

    def once(layer: Callable[[Any], Any]) -> int:
        wait()
        start = perf_counter_ns()
        layer(x)
        wait()
        return perf_counter_ns() - start

    with torch.no_grad():
        pairs = [(once(before), once(after)) for _ in range(5)]  # warm-up: plans are made, caches and clocks settle
        rounds = max(LEAST_ROUNDS, min(ROUNDS, BUDGET_NS // max(1, sum(pairs[-1]))))
        times: tuple[list[int], list[int]] = ([], [])
        for index in range(rounds):
            for which in (0, 1) if index % 2 else (1, 0):
                times[which].append(once((before, after)[which]))
    return median(times[0]) / 1e3, median(times[1]) / 1e3


def _nothing() -> None:
    pass
