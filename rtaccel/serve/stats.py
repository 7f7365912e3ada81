"""What a batcher counted."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from rtaccel.realtime.stats import LoopHistogram


@dataclass(frozen=True)
class SizeHistogram:
    """Samples of a batch. Up to 63 exact, above in 32 buckets to each power of two; buckets: (largest size, how many)."""

    n: int
    p50: int
    p99: int
    max: int
    mean: float
    buckets: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, raw: dict[str, Any]) -> SizeHistogram:
        mean = raw["sum_ns"] / raw["n"] if raw["n"] else float("nan")
        buckets = tuple((min(end, raw["max_ns"]), count) for end, count in raw["buckets"])
        return cls(raw["n"], raw["p50_ns"], raw["p99_ns"], raw["max_ns"], mean, buckets)


@dataclass(frozen=True)
class BatcherStats:
    """Counts and histograms of a StreamBatcher, as of one moment.

    put: samples that were taken. Each of them is at last one of ok, late, replaced, dropped and refused (by the model); those
        that are not yet are waiting or in a batch.
    full: puts that found no place; they are not among `put`.
    batches: how many left. waiting: streams with a sample that the worker has seen.
    overran, overran_us: batches that took longer than a + b n and the margin that they were given, and by how much in all.
    held_up, held_up_us: batches whose latest start passed while their worker ran a batch of another model, and for how long in
        all. With workers of its own a batcher has none.
    cost_us: (a, b, margin) of what a batch of n is expected to take, a + b n + margin.
    batch: samples of a batch. queue: from put until the batch leaves. took: from there to the last answer.
    lateness: of each answer after its deadline, 0 in time.
    """

    put: int
    full: int
    ok: int
    late: int
    replaced: int
    dropped: int
    refused: int
    batches: int
    waiting: int
    overran: int
    overran_us: float
    held_up: int
    held_up_us: float
    cost_us: tuple[float, float, float]
    batch: SizeHistogram
    queue: LoopHistogram
    lateness: LoopHistogram
    took: LoopHistogram

    @classmethod
    def of(cls, raw: dict[str, Any]) -> BatcherStats:
        """From a snapshot of the native side."""
        times = {key: LoopHistogram.of(raw[key]) for key in ("queue", "lateness", "took")}
        return cls(**{**raw, **times, "batch": SizeHistogram.of(raw["batch"])})

    @property
    def answered(self) -> int:
        """Samples that were stepped: ok and late."""
        return self.ok + self.late

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        a, b, margin = self.cost_us
        return "\n".join(
            (
                f"put       {self.put:,}, {self.full:,} more were full",
                f"answered  {self.ok:,} ok, {self.late:,} late, {self.replaced:,} replaced, {self.dropped:,} dropped, "
                f"{self.refused:,} refused",
                f"batches   {self.batches:,}, of {self.batch.p50:,} samples (p50), {self.batch.max:,} at most",
                f"overran   {self.overran:,} by {self.overran_us:,.0f} us in all; {self.held_up:,} held up by other models, "
                f"for {self.held_up_us:,.0f} us",
                f"cost      {a:.2f} us + {b:.4f} us per sample, and a margin of {margin:.2f} us",
                f"queue     p50 {self.queue.p50_us:,.1f}, p99 {self.queue.p99_us:,.1f}, max {self.queue.max_us:,.1f} us",
                f"lateness  p99.9 {self.lateness.p999_us:,.1f}, max {self.lateness.max_us:,.1f} us",
            )
        )


@dataclass(frozen=True)
class WorkersStats:
    """Of BatchWorkers, as of one moment. batchers: that they serve now. batches: of all. busy_us: in batches, of all threads."""

    batchers: int
    batches: int
    busy_us: float
