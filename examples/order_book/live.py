"""Ticks in bursts from another process, signals from a loop in this one, and the time from tick to signal.

Run as a program this file is the feed: it puts ticks into a slot on their time, and keeps when each signal was published.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[2]))

import rtaccel as rt
from examples._shared.outcome import Missing

F64 = NDArray[np.float64]

PERIOD_US, MAX_AGE_US = 25.0, 1000.0
QUIET_US, BURST_US = 150.0, 3.0
"""Mean time between ticks outside of a burst, and inside."""

BURSTS, LONGEST = 0.02, 40
"""Share of ticks that begin a burst, and the most ticks of one."""

LATE, LATE_US = 0.01, 5000.0
"""Share of ticks that come when they are old already, and how old."""


@dataclass(frozen=True)
class Run:
    """us [n]: from tick to signal, of each signal that the feed saw before the next was left. ticks: put.

    overwritten: by a newer one before the loop saw them. late: put when too old.
    late_signals: signals that were computed from those. stats: of the loop."""

    us: F64
    ticks: int
    overwritten: int
    late: int
    late_signals: int
    stats: Any

    def at(self, percent: float) -> float:
        return float(np.percentile(self.us, percent))


def arrivals(count: int, seed: int) -> tuple[F64, NDArray[np.bool_]]:
    """(times of ticks in us, which of them come late): quiet times with bursts. A late tick has a pause before it that is longer
    than its age, as stamps do not go back."""
    rng = np.random.default_rng(seed)
    gaps = rng.exponential(QUIET_US, count)
    for begin in np.flatnonzero(rng.random(count) < BURSTS):
        length = int(rng.integers(5, LONGEST))
        gaps[begin + 1 : begin + length] = rng.exponential(BURST_US, count)[begin + 1 : begin + length]
    late = rng.random(count) < LATE
    gaps[late] += 1.5 * LATE_US
    return np.cumsum(gaps), late


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run(model: Any, ticks: NDArray[np.float32], count: int, seed: int = 0) -> Run:
    """The model in a loop, and the feed in a process of its own. On a single core the loop sleeps between periods, and has no
    priority over the feed. Raises Missing where the feed saw no signal."""
    shared = cores() < 2
    name = f"order-book-{time.monotonic_ns():x}"
    read = rt.Latest((ticks.shape[1],), name=f"{name}-ticks")
    write = rt.Latest((3,), name=f"{name}-signals")
    try:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what the system does not allow, and of a step in Python
            np.save(Path(folder) / "ticks.npy", ticks[:count])
            loop = rt.Loop(
                model, read=read, write=write, period_us=PERIOD_US, deadline_us=PERIOD_US, max_age_us=MAX_AGE_US,
                on_miss="late", on_old="hold", on_stale="hold", spin_us=0.0 if shared else 0.8 * PERIOD_US,
                priority=None if shared else 50,
            )  # fmt: skip
            with loop:
                command = [sys.executable, str(Path(__file__)), name, folder, str(seed)]
                done = subprocess.run(command, capture_output=True, text=True, timeout=120)
            if done.returncode:
                raise RuntimeError(done.stderr)
            with np.load(Path(folder) / "times.npz") as found:
                stamps, published, late = found["stamps"], found["published"], found["late"]
        stats = loop.stats()
    finally:
        for slot in (read, write):
            slot.close()
            slot.unlink()
    us = (published - stamps)[(published > 0) & ~late] / 1e3
    if not len(us):
        raise Missing(f"the feed saw no signal of {count} ticks: the loop and the feed need a core each. Free one.")
    return Run(us, count, stats.overwritten, int(late.sum()), int(((published != 0) & late).sum()), stats)


def feed(name: str, folder: Path, seed: int) -> None:
    """Puts each tick on its time and looks for signals between them, without ever waiting."""
    ticks = np.load(folder / "ticks.npy")
    out, back = rt.Latest.open(f"{name}-ticks"), rt.Latest.open(f"{name}-signals")
    times, late = arrivals(len(ticks), seed)
    stamps, index = np.zeros(len(ticks), np.int64), {}
    published = np.zeros(len(ticks), np.int64)
    now, put, get = time.monotonic_ns, out.put, back.get
    begin = now() + 5_000_000
    due = (begin + times * 1e3).astype(np.int64).tolist()
    late_ns = int(LATE_US * 1e3)

    def look() -> None:
        got = get()
        if got.status == "new" and (at := index.get(got.stamp_ns, -1)) >= 0:
            if got.origin in ("fresh", "missed"):
                published[at] = got.put_ns  # when the loop left it, not when it was found here
            elif not published[at]:
                published[at] = -1  # a signal was there, and was left again before this process looked

    for i, tick in enumerate(ticks):
        while now() < due[i]:
            look()
        stamp = now() - (late_ns if late[i] else 0)
        stamps[i] = stamp
        index[stamp] = i
        put(tick, stamp)
    end = now() + 20_000_000
    while now() < end:
        look()
    np.savez(folder / "times.npz", stamps=stamps, published=published, late=late)


if __name__ == "__main__":
    feed(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
