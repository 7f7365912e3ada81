"""Cold start: what the first call takes in a process of its own, and what comes before it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass, field

import numpy as np

from rtaccel.core.errors import FormatError
from rtaccel.measure.budget import Budget
from rtaccel.measure.numbers import is_finite, is_whole, shown
from rtaccel.measure.result import Latency

MAX_PROCESSES = 100_000

_CHILD = """
import json, sys, time
clock = time.perf_counter_ns
setup, call = (compile(text, name, "exec") for text, name in zip(json.load(sys.stdin), ("<setup>", "<call>")))
names = {"__name__": "cold_start"}
begin = clock()
exec(setup, names)
ready = clock()
exec(call, names)
end = clock()
exec(call, names)
print("\\ncold_start", ready - begin, end - ready, clock() - end)
"""


@dataclass(frozen=True, eq=False)
class ColdStart:
    """first: the first call, judged. setup_us, second_us, process_us: float64 [processes], what the setup, the second
    call, and the whole process from its start to its end took."""

    first: Latency
    setup_us: np.ndarray = field(repr=False)
    second_us: np.ndarray = field(repr=False)
    process_us: np.ndarray = field(repr=False)

    def __str__(self) -> str:
        setup, second, process = (np.median(x) / 1e3 for x in (self.setup_us, self.second_us, self.process_us))
        medians = f"medians: setup {setup:,.1f} ms, second call {second:,.3f} ms, whole process {process:,.1f} ms"
        return f"{self.first}\n  {medians}"


def cold_start(
    setup: str,
    call: str,
    budget: Budget | None = None,
    *,
    processes: int = 20,
    seconds: float = 120.0,
    name: str = "cold start",
) -> ColdStart:
    """Runs `setup` and then `call`, both Python source as for `timeit`, in fresh processes, one after the other.

    budget: of the first call. A percentile needs as many processes as it needs samples: 11 for p50, 64 for p90, 662 for
        p99; with fewer the verdict is UNDECIDED and says so.
    seconds: stops after so long, after one process at least.

    Raises FormatError for source that is no Python, for a process that fails (with the end of what it wrote to standard
    error) and for arguments that make no sense.

    >>> from rtaccel.measure.cold_start import cold_start
    >>> found = cold_start("import json", "json.dumps([1, 2])", processes=2)
    >>> found.first.n, bool((found.setup_us > 0).all())
    (2, True)
    """
    for text, what in ((setup, "setup"), (call, "call")):
        try:
            compile(text, f"<{what}>", "exec")
        except (SyntaxError, ValueError, TypeError) as problem:
            raise FormatError("cold_start", f"{what}: {problem}", "Python source", "Correct it.") from problem
    if budget is not None and not isinstance(budget, Budget):
        raise FormatError(
            "cold_start", f"budget of type {type(budget).__name__}", "a Budget", "Pass rt.Budget(p50_us=1e4)."
        )
    if not (is_whole(processes, 1, MAX_PROCESSES) and is_finite(seconds) and seconds > 0):
        got = f"processes={shown(processes)}, seconds={shown(seconds)}"
        raise FormatError(
            "cold_start", got, f"1 to {MAX_PROCESSES:,} processes, a positive time", "Twenty are a good start."
        )
    rows: list[tuple[int, int, int, int]] = []
    begin = time.monotonic()
    while len(rows) < processes and (not rows or time.monotonic() - begin < seconds):
        rows.append(_one(setup, call))
    process, prepared, first, second = np.array(rows, dtype=np.float64).T
    notes = (
        () if len(rows) == processes else (f"stopped after {seconds:g} s with {len(rows)} of {processes} processes",)
    )
    judged = Latency.from_samples(first, name=name, timer_ns=0.0, budget=budget, notes=notes, mode="cold start")
    return ColdStart(judged, prepared / 1e3, second / 1e3, process / 1e3)


def _one(setup: str, call: str) -> tuple[int, int, int, int]:
    begin = time.perf_counter_ns()
    done = subprocess.run(
        [sys.executable, "-c", _CHILD], input=json.dumps([setup, call]), capture_output=True, text=True, check=False
    )
    passed = time.perf_counter_ns() - begin
    words = done.stdout.rpartition("\n" + "cold_start ")[2].split()
    if done.returncode != 0 or len(words) != 3:
        got = f"a process that ended with {done.returncode}: {done.stderr.strip()[-400:]}"
        raise FormatError("cold_start", got, "setup and call to run", "Run them in a fresh interpreter.")
    prepared, first, second = map(int, words)
    return passed, prepared, first, second
