"""From samples to rows: percentiles, error classes, the best peer of each and our ratio to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

CLASSES = {"exact": 1e-4, "int8": 0.03, "int4": 0.20}
"""Largest error (rms over rms of torch float32) of each class. A class holds the ones above it too: an exact runner is also a
choice for someone who can take 3 %."""


@dataclass(frozen=True)
class Row:
    """A runner on a network. Times in us over all calls; best_us: lowest round median. error: None where it was not run."""

    peer: str
    title: str
    ours: bool
    error: float | None = None
    p50_us: float | None = None
    p99_us: float | None = None
    p999_us: float | None = None
    best_us: float | None = None
    calls: int = 0
    note: str = ""
    left_out: str | None = None

    def within(self, limit: float) -> bool:
        return self.error is not None and self.error <= limit and self.best_us is not None

    def as_json(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if value not in (None, "")}


@dataclass(frozen=True)
class Duel:
    """The fastest peer of an error class and the fastest of ours in it. ratio: peer's best over ours, above 1 if we win."""

    limit: str
    peer: Row | None
    ours: Row | None

    @property
    def ratio(self) -> float | None:
        if self.peer is None or self.ours is None or not self.ours.best_us or self.peer.best_us is None:
            return None
        return self.peer.best_us / self.ours.best_us


def summarise(peer: str, title: str, ours: bool, said: dict[str, Any], samples_ns: Sequence[Sequence[int]]) -> Row:
    if "left_out" in said or not samples_ns:
        return Row(peer, title, ours, left_out=said.get("left_out", "no samples"))
    every = np.concatenate([np.asarray(r, np.float64) for r in samples_ns]) / 1e3
    p50, p99, p999 = np.quantile(every, [0.5, 0.99, 0.999], method="higher")
    best = min(float(np.median(r)) for r in samples_ns) / 1e3
    return Row(
        peer, title, ours, float(said["error"]), float(p50), float(p99), float(p999), best, len(every), said.get("note", "")
    )  # fmt: skip


def best_of(rows: Sequence[Row], limit: str, ours: bool) -> Row | None:
    found = [row for row in rows if row.ours == ours and row.within(CLASSES[limit])]
    return min(found, key=lambda row: row.best_us or 0.0, default=None)


def duels(rows: Sequence[Row]) -> list[Duel]:
    return [Duel(limit, best_of(rows, limit, False), best_of(rows, limit, True)) for limit in CLASSES]
