"""The inner loop of a measurement: one clock reading before a call, one after, nothing else in between."""

from __future__ import annotations

import gc
import sys
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

Clock = Callable[[], int]
"""Returns nanoseconds, never decreasing."""

CLOCK: Clock = time.perf_counter_ns

_CHUNK = 1024


@dataclass(frozen=True)
class Limits:
    """When to stop: at max_samples or max_ns, and before that once min_samples and min_ns are both reached."""

    min_samples: int
    max_samples: int
    min_ns: int
    max_ns: int


def _fill(
    call: Callable[..., object],
    args: tuple[Any, ...],
    out: array[int],
    start: int,
    stop: int,
    deadline: int,
    clock: Clock,
) -> int:
    """Times calls into out[start:stop] until a call ends at or after the deadline; returns the next free index."""
    for i in range(start, stop):
        before = clock()
        call(*args)
        after = clock()
        out[i] = after - before
        if after >= deadline:
            return i + 1
    return stop


@contextmanager
def quiet() -> Iterator[None]:
    """No garbage collection inside, and its former state afterwards, whatever is raised."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def no_grad() -> AbstractContextManager[Any]:
    """torch.no_grad() if torch is loaded already; torch is never imported for it."""
    torch = sys.modules.get("torch")
    return nullcontext() if torch is None or not hasattr(torch, "no_grad") else torch.no_grad()


def warm_up(call: Callable[..., object], args: tuple[Any, ...], seconds: float, clock: Clock = CLOCK) -> float:
    """Calls for so many seconds, at least once; the median time of the last calls in nanoseconds.

    It runs through the loop that measures, so that the interpreter has specialised it too.
    """
    scratch = array("q", bytes(8 * _CHUNK))
    deadline = clock() + int(seconds * 1e9)
    while True:
        n = _fill(call, args, scratch, 0, _CHUNK, deadline, clock)
        if n < _CHUNK or clock() >= deadline:
            return float(sorted(scratch[:n])[n // 2])


def sample_ns(call: Callable[..., object], args: tuple[Any, ...], limits: Limits, clock: Clock = CLOCK) -> array[int]:
    """Nanoseconds of each call, in order; at least one. What `call` raises goes through unchanged."""
    out = array("q", bytes(8 * limits.max_samples))  # written here, so that no page is touched for the first time later
    start = clock()
    n = _fill(call, args, out, 0, limits.min_samples, start + limits.max_ns, clock)
    if n == limits.min_samples and n < limits.max_samples and clock() < start + limits.min_ns:
        n = _fill(call, args, out, n, limits.max_samples, start + limits.min_ns, clock)
    return out[:n]


def _nothing(*args: object) -> None:
    return None


def timer_overhead_ns(args: tuple[Any, ...] = (), clock: Clock = CLOCK, samples: int = 2001) -> float:
    """Median time that an empty Python function takes in the same loop: two clock readings and a call."""
    out = array("q", bytes(8 * samples))
    with quiet():
        n = _fill(_nothing, args, out, 0, samples, sys.maxsize, clock)
    return float(sorted(out[:n])[n // 2])
