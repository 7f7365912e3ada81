"""What a server counted, for Prometheus: plain numbers that the one thread adds up, read when they are scraped."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from typing import Any

from rtaccel.core.errors import BackendUnavailable

BOUNDS_US = (10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 2e5, 5e5, 1e6, 1e7)
BOUNDS_NS = tuple(int(bound * 1e3) for bound in BOUNDS_US)
BOUNDS_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 1024)


class Histogram:
    """Counts between `bounds`, and their sum."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[int, ...] = BOUNDS_NS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0

    def add(self, value: int) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    @property
    def n(self) -> int:
        return sum(self.counts)

    def buckets(self, unit: float) -> list[tuple[str, int]]:
        """(upper bound as text, how many up to it), for Prometheus. unit: what bounds are divided by."""
        made, below = [], 0
        for bound, count in zip((*self.bounds, None), self.counts):
            below += count
            made.append(("+Inf" if bound is None else repr(bound / unit), below))
        return made


class Sum:
    """How many values there were, and their sum."""

    __slots__ = ("n", "total")

    def __init__(self) -> None:
        self.n = self.total = 0

    def add(self, value: int) -> None:
        self.n += 1
        self.total += value


class ModelCounts:
    """Of one model. late: answered after their deadline; too_late: not begun for theirs. decoded, encoded: of requests and
    answers."""

    __slots__ = ("batch", "began_ns", "decoded", "encoded", "failed", "full", "late", "ok", "queue", "too_late", "took")

    def __init__(self) -> None:
        self.ok = self.late = self.failed = self.too_late = self.full = 0
        self.began_ns = 0
        self.queue, self.took = Histogram(), Histogram()
        self.batch = Histogram(BOUNDS_ROWS)
        self.decoded, self.encoded = Sum(), Sum()


class Collector:
    """For `prometheus_client`: models() gives (name, counts, sequences in use) of each, server() the server's own numbers.

    Raises BackendUnavailable without the package prometheus-client.
    """

    def __init__(
        self, models: Callable[[], list[tuple[str, ModelCounts, int]]], server: Callable[[], dict[str, int]]
    ) -> None:
        self._models, self._server = models, server
        _library()

    def describe(self) -> list[Any]:
        return []

    def collect(self) -> Iterator[Any]:
        core, models = _core(), self._models()
        requests = core.CounterMetricFamily(
            "rtaccel_requests", "requests by what became of them", labels=["model", "status"]
        )
        for name, counts, _ in models:
            for status in ("ok", "late", "failed", "too_late", "full"):
                requests.add_metric([name, status], getattr(counts, status))
        yield requests
        sequences = core.GaugeMetricFamily("rtaccel_sequences", "sequences that have a stream", labels=["model"])
        for name, _, count in models:
            sequences.add_metric([name], count)
        yield sequences
        for key, text, unit in (
            ("queue", "seconds from arrival until the batch begins", 1e9),
            ("took", "seconds of the native calls", 1e9),
            ("batch", "rows of the native calls", 1),
        ):
            end = "batch_rows" if key == "batch" else f"{key}_seconds"
            family = core.HistogramMetricFamily(f"rtaccel_{end}", text, labels=["model"])
            for name, counts, _ in models:
                histogram = getattr(counts, key)
                family.add_metric([name], histogram.buckets(unit), histogram.total / unit)
            yield family
        for name, value in self._server().items():
            if name.endswith("_total"):
                yield core.CounterMetricFamily(f"rtaccel_{name}", name.replace("_", " "), value=value)
            else:
                yield core.GaugeMetricFamily(f"rtaccel_{name}", name.replace("_", " "), value=value)

    def text(self) -> bytes:
        """As a scrape has it."""
        library = _library()
        registry = library.CollectorRegistry(auto_describe=False)
        registry.register(self)
        return bytes(library.generate_latest(registry))


def _library() -> Any:
    try:
        import prometheus_client
    except ImportError as error:
        raise BackendUnavailable(
            "serve", f"no package prometheus-client ({error})", "it", "pip install 'rtaccel[serve]'"
        ) from None
    return prometheus_client


def _core() -> Any:
    _library()
    from prometheus_client import core

    return core
