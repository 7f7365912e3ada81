"""Statistics of loops for Prometheus, read at scrape time (extra `realtime`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rtaccel.core.errors import BackendUnavailable
from rtaccel.realtime.stats import LoopHistogram, LoopStats, StatsReader, names

COUNTERS = (
    "cycles",
    "skipped",
    "fresh",
    "repeated",
    "waiting",
    "stale",
    "held",
    "fallback",
    "forecast",
    "misses",
    "caught_up",
    "clock_back",
    "overwritten",
    "warm_runs",
    "warm_skipped",
    "every_runs",
)
BOUNDS_US = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 1e5, 1e6)
"""Upper ends of what Prometheus is given; a bucket of the loop counts where its own end is not above one."""


class LoopCollector:
    """A collector for `prometheus_client.REGISTRY.register`: each scrape reads the counters of the loops as they are.

    loops: names of loops, of any process; None: all that are there at each scrape.
    Raises BackendUnavailable without the package prometheus-client, FormatError for a name that is not there.
    """

    def __init__(self, loops: list[str] | None = None) -> None:
        self._metrics = _library()
        self._readers = None if loops is None else [StatsReader(name) for name in loops]

    def describe(self) -> list[Any]:
        return []

    def collect(self) -> Iterator[Any]:
        stats = [r.read() for r in (self._readers if self._readers is not None else map(StatsReader, names()))]
        core = self._metrics
        for field in COUNTERS:
            family = core.CounterMetricFamily(f"rtaccel_loop_{field}", f"{field} of a loop", labels=["loop"])
            for s in stats:
                family.add_metric([s.name or ""], getattr(s, field))
            yield family
        streak = core.GaugeMetricFamily("rtaccel_loop_streak", "cycles late or stale in a row", labels=["loop"])
        running = core.GaugeMetricFamily("rtaccel_loop_running", "1 while it runs", labels=["loop"])
        for s in stats:
            streak.add_metric([s.name or ""], s.streak)
            running.add_metric([s.name or ""], s.state == "running")
        yield streak
        yield running
        for field in ("wake_error", "work", "response", "age", "latency"):
            family = core.HistogramMetricFamily(f"rtaccel_loop_{field}_seconds", f"{field} of a loop", labels=["loop"])
            for s in stats:
                h = getattr(s, field)
                total = h.mean_us * h.n * 1e-6 if h.n else 0.0
                family.add_metric([s.name or ""], _cumulative(h), total)
            yield family


def _cumulative(h: LoopHistogram) -> list[tuple[str, float]]:
    rows, seen, at = [], 0, 0
    for bound in BOUNDS_US:
        while at < len(h.buckets) and h.buckets[at][0] <= bound:
            seen += h.buckets[at][1]
            at += 1
        rows.append((f"{bound * 1e-6:g}", float(seen)))
    return [*rows, ("+Inf", float(h.n))]


def _library() -> Any:
    try:
        from prometheus_client import core
    except ModuleNotFoundError as missing:
        raise BackendUnavailable(
            "LoopCollector",
            "no module prometheus_client",
            "the package prometheus-client",
            "pip install 'rtaccel[realtime]'",
        ) from missing
    return core


__all__ = ["LoopCollector", "LoopStats"]
