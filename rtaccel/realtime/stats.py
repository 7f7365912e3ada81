"""What a loop counted, read while it runs, in its own process or from another."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from rtaccel import _native as native
from rtaccel.core.errors import FormatError

STATES = ("made", "running", "stopped", "failed")


@dataclass(frozen=True)
class LoopHistogram:
    """Times in microseconds. Buckets are log-linear, 32 to each power of two: a percentile is up to 3.2 % above the true one,
    the maximum is exact. buckets: (largest time of a bucket in us, how many)."""

    n: int
    p50_us: float
    p99_us: float
    p999_us: float
    max_us: float
    mean_us: float
    buckets: tuple[tuple[float, int], ...] = ()

    @classmethod
    def of(cls, raw: dict[str, Any]) -> LoopHistogram:
        n = raw["n"]
        p50, p99, p999 = (raw[key] / 1e3 if n else float("nan") for key in ("p50_ns", "p99_ns", "p999_ns"))
        mean = raw["sum_ns"] / n / 1e3 if n else float("nan")
        buckets = tuple((min(end, raw["max_ns"]) / 1e3, count) for end, count in raw["buckets"])
        return cls(n, p50, p99, p999, raw["max_ns"] / 1e3, mean, buckets)


@dataclass(frozen=True)
class LoopStats:
    """Counts of a loop, and five histograms.

    spin_us: how long before its time a cycle wakes, now.
    cycles: grid points that were run; skipped: those that were not, as a cycle before them took too long.
    fresh: results of the model; repeated: of those, of an input that had been used before.
    waiting: cycles before the first input. stale: cycles whose newest input was older than max_age_us.
    held: the last result was published again. fallback, forecast: results of those.
    misses: results later than deadline_us. caught_up: cycles that began a period late.
    streak, longest_streak: cycles in a row that were late or stale, now and at most.
    clock_back: inputs with a stamp after now. overwritten: inputs that were replaced before a cycle saw them.
    warm_runs, warm_skipped: runs for the caches; cycles where there was no time for one.
    wake_error: start of a cycle after its grid point. work: from there to the result. response: both. age: of the input at the
        start of a cycle. latency: from the stamp of a new input to its published result; results that are held, repeated or
        of a forecast are not in it.
    """

    name: str | None
    pid: int
    alive: bool
    state: str
    period_us: float
    deadline_us: float
    max_age_us: float
    spin_us: float
    fifo: int
    locked: bool
    started_ns: int
    updated_ns: int
    cycles: int
    skipped: int
    fresh: int
    repeated: int
    waiting: int
    stale: int
    held: int
    fallback: int
    forecast: int
    misses: int
    caught_up: int
    streak: int
    longest_streak: int
    clock_back: int
    overwritten: int
    warm_runs: int
    warm_skipped: int
    every_runs: int
    wake_error: LoopHistogram
    work: LoopHistogram
    response: LoopHistogram
    age: LoopHistogram
    latency: LoopHistogram

    @classmethod
    def of(cls, raw: dict[str, Any], name: str | None = None) -> LoopStats:
        """From a snapshot of the native side."""
        given = dict(raw)
        given.pop("failed_by")
        for key in ("period", "deadline", "max_age", "spin"):
            given[f"{key}_us"] = given.pop(f"{key}_ns") / 1e3
        for key in ("wake_error", "work", "response", "age", "latency"):
            given[key] = LoopHistogram.of(given[key])
        given["state"] = STATES[given["state"]]
        if given["state"] == "running" and not given["alive"]:
            given["state"] = "gone"
        given["locked"] = bool(given["locked"])
        return cls(name=name, **given)

    @classmethod
    def open(cls, name: str) -> LoopStats:
        """Those of the loop with this name, of any process of this machine, as they are now.

        Raises FormatError where there is none.
        """
        return StatsReader(name).read()

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        return "\n".join(f"{label:<12}  {text}" for label, text in self.rows())

    def rows(self) -> list[tuple[str, str]]:
        """(label, text) for people."""

        def times(h: LoopHistogram) -> str:
            if not h.n:
                return "none yet"
            return f"p50 {h.p50_us:,.2f}, p99 {h.p99_us:,.2f}, p99.9 {h.p999_us:,.2f}, max {h.max_us:,.2f} us"

        fifo = f"SCHED_FIFO {self.fifo}" if self.fifo else "no SCHED_FIFO"
        extra = f", {self.fallback:,} fallback" if self.fallback else ""
        extra += f", {self.forecast:,} forecast" if self.forecast else ""
        return [
            ("loop", f"{self.name or 'without a name'}, process {self.pid}, {self.state}"),
            (
                "period",
                f"{self.period_us:,.0f} us, deadline {self.deadline_us:,.0f} us, max_age {self.max_age_us:,.0f} us",
            ),
            (
                "system",
                f"{fifo}, memory {'locked' if self.locked else 'not locked'}",
            ),
            ("cycles", f"{self.cycles:,}, {self.skipped:,} skipped, {self.misses:,} late, {self.stale:,} stale"),
            ("results", f"{self.fresh:,} fresh ({self.repeated:,} of an old input), {self.held:,} held{extra}"),
            ("streak", f"{self.streak:,} cycles late or stale in a row, at most {self.longest_streak:,}"),
            ("wake-up error", times(self.wake_error)),
            ("work", times(self.work)),
            ("response", times(self.response)),
            ("age of input", times(self.age)),
            ("input to result", times(self.latency)),
        ]


class StatsReader:
    """Statistics of a loop by name, to be read again and again. Raises FormatError where there is none."""

    def __init__(self, name: str) -> None:
        self.name = name
        try:
            self._file = native.LoopStatsFile(name)
        except (ValueError, TypeError) as error:
            raise FormatError(
                "loop statistics",
                f"name {name!r}: {error}",
                "a loop that was made with this name",
                "Pass name= to rt.Loop; `rtaccel top` without a name lists those that are there.",
            ) from None

    def read(self) -> LoopStats:
        return LoopStats.of(self._file.snapshot(), self.name)


def names() -> list[str]:
    """Loops with statistics in shared memory, of all processes."""
    from pathlib import Path

    found = Path("/dev/shm").glob("rta.loop.*")
    return sorted(path.name.removeprefix("rta.loop.") for path in found)
