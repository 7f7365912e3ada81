"""The harness on the machine at hand: calls of known length, a function against itself, and what measuring costs."""

from __future__ import annotations

import gc
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from array import array
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rtaccel import _native
from rtaccel.measure.budget import Budget
from rtaccel.measure.interleave import Comparison, compare
from rtaccel.measure.latency import measure
from rtaccel.measure.machine.witness import chain_iterations
from rtaccel.measure.timing.sampler import Loop, quiet
from rtaccel.measure.verdict import Verdict

SPIN_US = 20.0


def spins(seconds: float | None = None) -> dict[str, Verdict | None]:
    """Verdicts on a call that waits until 20 us of the clock have passed: name of the budget -> verdict.

    One limit lies below the length and must FAIL for p50 and p99. One lies above it, and p50 must PASS; so must p99,
    unless the machine interrupts more than one call in a hundred for longer than the margin.
    """
    wait = partial(_native.busy, int(SPIN_US * 1e3))
    budgets = {
        "p50 below": Budget(p50_us=0.75 * SPIN_US),
        "p99 below": Budget(p99_us=0.75 * SPIN_US),
        "p50 above": Budget(p50_us=1.5 * SPIN_US),
        "p99 above": Budget(p99_us=10 * SPIN_US),
    }
    return {name: measure(wait, (), budget, seconds=seconds).verdict for name, budget in budgets.items()}


def against_itself(comparisons: int, seconds: float) -> list[Comparison]:
    """A function of 20 us compared with itself, so many times, each for so many seconds."""
    work = partial(_native.spin, chain_iterations(SPIN_US * 1e3))
    return [compare(lambda: work(), lambda: work(), seconds=seconds, seed=i) for i in range(comparisons)]


def against_slower(comparisons: int, seconds: float, slowdown: float = 0.1) -> list[Comparison]:
    """The same with one of them `slowdown` slower: every verdict should be "slower"."""
    iterations = chain_iterations(SPIN_US * 1e3)
    work, slower = (partial(_native.spin, round(iterations * times)) for times in (1, 1 + slowdown))
    return [compare(lambda: slower(), lambda: work(), seconds=seconds, seed=i) for i in range(comparisons)]


@dataclass(frozen=True)
class Overhead:
    """in_sample_ns: what a call of an empty function takes by its own sample. per_call_ns: what the loop takes per such
    call, readings and book-keeping included; both the least of 20 trials. blocks, bytes: what Python allocates during
    100,000 calls, at most at any moment."""

    in_sample_ns: float
    per_call_ns: float
    blocks: int
    bytes: int


def overhead() -> Overhead:
    """The cost of timing one call."""
    calls = 100_000
    out = array("q", bytes(8 * calls))
    loop = Loop(_native.nothing)
    medians, walls = [], []
    with quiet():
        for _ in range(20):
            begin = time.perf_counter_ns()
            loop.fill(out, 0, calls, sys.maxsize)
            walls.append((time.perf_counter_ns() - begin) / calls)
            medians.append(statistics.median(out))
        gc.collect()
        loop.fill(out, 0, calls, sys.maxsize)
        before = sys.getallocatedblocks()
        loop.fill(out, 0, calls, sys.maxsize)
        blocks = sys.getallocatedblocks() - before
        tracemalloc.start()
        loop.fill(out, 0, 1, sys.maxsize)
        tracemalloc.reset_peak()
        base = tracemalloc.get_traced_memory()[0]
        loop.fill(out, 0, calls, sys.maxsize)
        peak = tracemalloc.get_traced_memory()[1] - base
        tracemalloc.stop()
    return Overhead(min(medians), min(walls), blocks, peak)


def plugin_seconds(sessions: int = 7) -> float:
    """What the plugin adds to a pytest session that does not use it: the difference of the least processor times of
    sessions with and without it, in turn. Negative where noise is more than that."""
    times: dict[bool, list[float]] = {True: [], False: []}
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "test_nothing.py").write_text("def test_nothing(): pass\n")
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", folder, folder]
        for _ in range(sessions):
            for on in (True, False):
                before = resource.getrusage(resource.RUSAGE_CHILDREN)
                without = [] if on else ["-p", "no:rtaccel"]
                subprocess.run([*command, *without], cwd=folder, capture_output=True, check=True, env=os.environ)
                after = resource.getrusage(resource.RUSAGE_CHILDREN)
                times[on].append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    return min(times[True]) - min(times[False])
