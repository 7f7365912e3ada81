"""The witness: how much of a miss is the machine's own doing.

A chain of multiplications that takes as long as the call runs before each call, so both are exposed to the machine alike.
The run is cut into windows of about 5 ms. In each, a miss, a call over a limit, is explained by the machine

- when the thread was switched out in the window: as many misses as it was switched out,
- when the witness took so much longer than its median as the call would need to exceed the limit: as many misses as there
  were of these, in the window or else in one beside it. Call and witness take turns, so noise makes as many of one as of the
  other, and more misses than that have another cause,
- when the hypervisor gave the time to others in the window or one beside it: all of them.

All three counts are kept: what was missed, what is explained, and what is not. The verdict is on what was missed.
"""

from __future__ import annotations

import resource
from array import array
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rtaccel.measure.budget import TIME_KEYS, Budget
from rtaccel.measure.numbers import figure
from rtaccel.measure.timing import sampler

WINDOW_NS = 5_000_000


@dataclass(frozen=True)
class Misses:
    """Calls over one limit. raw: all. attributed: those that the machine's noise explains."""

    key: str
    limit_us: float
    raw: int
    attributed: int

    @property
    def unattributed(self) -> int:
        return self.raw - self.attributed

    def __str__(self) -> str:
        return (
            f"{self.key}: {self.raw:,} calls over {figure(self.limit_us)} us, {self.attributed:,} of them with the machine "
            f"disturbed, {self.unattributed:,} without"
        )


@dataclass(frozen=True, eq=False)
class Witness:
    """What happened to a fixed piece of work between the calls, in microseconds, and to the thread.

    p50_us, p99_us, max_us: of the witness. windows: how many; switches: times that the thread was switched out;
    steal_ms: time that the hypervisor gave to others, None where the system does not tell. misses: per latency limit.
    """

    p50_us: float
    p99_us: float
    max_us: float
    windows: int
    switches: int
    steal_ms: float | None
    misses: tuple[Misses, ...]
    samples_us: np.ndarray = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """JSON values, without the samples."""
        keys = ("p50_us", "p99_us", "max_us", "windows", "switches", "steal_ms")
        misses = [vars(m) | {"unattributed": m.unattributed} for m in self.misses]
        return {key: getattr(self, key) for key in keys} | {"misses": misses}

    def __str__(self) -> str:
        steal = "unknown" if self.steal_ms is None else f"{self.steal_ms:.0f} ms"
        text = (
            f"witness: p50 {figure(self.p50_us)} us, p99 {figure(self.p99_us)} us, max {figure(self.max_us)} us; "
            f"{self.switches:,} context switches, steal {steal}, in {self.windows:,} windows"
        )
        return "\n  ".join([text, *map(str, self.misses)])


@dataclass
class _Log:
    """Per window: the first free sample after it, context switches in it, and steal in ms (NaN: not known)."""

    ends: list[int] = field(default_factory=list)
    switches: list[int] = field(default_factory=list)
    steal: list[float] = field(default_factory=list)


def chain_iterations(call_ns: float, clock: sampler.Clock = sampler.CLOCK) -> int:
    """Length of the chain that takes `call_ns` when nothing disturbs it: by the quickest of 32 trials."""
    from rtaccel import _native

    trial = 2_000
    times = []
    for _ in range(32):
        start = _native.now_ns()
        _native.spin(trial)
        times.append(_native.now_ns() - start)
    return max(1, round(trial * call_ns / max(min(times), 1)))


def sample(loop: sampler.Loop, limits: sampler.Limits, call_ns: float) -> tuple[array[int], array[int], _Log]:
    """As `sampler.sample`, with a witness: samples, witness samples, log of the windows.

    One call that is not counted opens each window: the book-keeping between two of them must not show as a slow call.
    """
    out, spins = (array("q", bytes(8 * limits.max_samples)) for _ in range(2))
    scratch, scratch_spins = (array("q", bytes(8)) for _ in range(2))
    per_window = max(1, int(WINDOW_NS / (2 * max(call_ns, 1.0))))
    log, n = _Log(), 0
    start = loop.now()
    while n < limits.max_samples:
        loop.fill(scratch, 0, 1, start, start, scratch_spins)
        switches, steal = _switches(), _steal_ms()
        wanted = limits.min_samples if n < limits.min_samples else limits.max_samples
        n = loop.fill(out, n, min(n + per_window, wanted), start + limits.max_ns, start, spins)
        log.ends.append(n)
        log.switches.append(_switches() - switches)
        log.steal.append(_steal_ms() - steal)
        passed = loop.now() - start
        if passed >= limits.max_ns or (n >= limits.min_samples and passed >= limits.min_ns):
            break
    sampler.check_clock(loop.now() - start, out[:n])
    return out[:n], spins[:n], log


def judge(samples_us: np.ndarray, spins_us: np.ndarray, log: _Log, budget: Budget | None) -> Witness:
    """What the witness says about the calls over each latency limit of a budget. samples_us, spins_us: [n]."""
    limits = {} if budget is None else {k: v for k, v in budget.as_dict().items() if k in TIME_KEYS}
    window = np.repeat(np.arange(len(log.ends)), np.diff([0, *log.ends]))
    usual, median = float(np.median(spins_us)), float(np.median(samples_us))
    misses = []
    for key, limit in limits.items():
        missed = np.bincount(window[samples_us > limit], minlength=len(log.ends))
        late = np.bincount(window[spins_us > usual + limit - median], minlength=len(log.ends))
        # Where the usual call is over the limit, no noise explains that.
        explained = _explained(missed, late, log) if limit > median else 0
        misses.append(Misses(key, limit, int(missed.sum()), explained))
    return Witness(
        p50_us=usual,
        p99_us=float(np.sort(spins_us)[len(spins_us) - 1 - len(spins_us) // 100]),
        max_us=float(spins_us.max()),
        windows=len(log.ends),
        switches=sum(log.switches),
        steal_ms=None if np.isnan(log.steal).any() else float(sum(log.steal)),
        misses=tuple(misses),
        samples_us=spins_us,
    )


def _explained(missed: np.ndarray, late: np.ndarray, log: _Log) -> int:
    """How many misses have a cause; missed, late: calls over the limit and witnesses as late, per window."""
    left = missed - np.minimum(missed, log.switches)
    stolen = np.nan_to_num(np.array(log.steal)) > 0
    left[stolen | np.append(stolen[1:], False) | np.append(False, stolen[:-1])] = 0
    causes = late.copy()
    for beside in (0, -1, 1):  # its own window first
        for i in np.flatnonzero(left):
            if 0 <= i + beside < len(causes):
                met = min(left[i], causes[i + beside])
                left[i] -= met
                causes[i + beside] -= met
    return int(missed.sum() - left.sum())


def _switches() -> int:
    usage = resource.getrusage(getattr(resource, "RUSAGE_THREAD", resource.RUSAGE_SELF))
    return usage.ru_nvcsw + usage.ru_nivcsw


def _steal_ms() -> float:
    """Of all CPUs since the start of the system; NaN where /proc/stat does not tell."""
    try:
        with open("/proc/stat", "rb") as file:
            return int(file.readline().split()[8]) * 10.0  # in hundredths of a second
    except (OSError, IndexError, ValueError):
        return float("nan")
