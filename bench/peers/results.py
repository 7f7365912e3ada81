"""From samples to rows: percentiles, error classes, the best peer of each and our ratio to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

CLASSES = {"exact": 1e-5, "int8": 0.03, "int4": 0.20}
"""Largest error (rms over rms of torch float32) of each class. A class holds the ones above it too: an exact runner is also a
choice for someone who can take 3 %."""


@dataclass(frozen=True)
class Row:
    """A runner on a network. Times in us over all calls; best_us: lowest round median, best_p99_us: 99 % of that round.

    run_us, call_us: best_us of the two other forms of our calls. cold_us: of the rounds with cold caches. error: None
    where it was not run.
    """

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
    best_p99_us: float | None = None
    run_us: float | None = None
    call_us: float | None = None
    cold_us: float | None = None

    def within(self, limit: float, time: str) -> bool:
        return self.error is not None and self.error <= limit and getattr(self, time) is not None

    def as_json(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if value not in (None, "")}


@dataclass(frozen=True)
class Duel:
    """The fastest peer of an error class and the fastest of ours in it. ratio: peer's time over ours, above 1 if we win."""

    limit: str
    peer: Row | None
    ours: Row | None
    time: str = "best_us"

    @property
    def ratio(self) -> float | None:
        if self.peer is None or self.ours is None:
            return None
        return float(getattr(self.peer, self.time) / getattr(self.ours, self.time))


Rounds = Sequence[Sequence[int]]
"""Samples in ns of each round."""


def summarise(
    peer: str, title: str, ours: bool, said: dict[str, Any], samples_ns: Rounds, cold_ns: Rounds = (),
    forms_ns: Mapping[str, Rounds] | None = None,
) -> Row:  # fmt: skip
    if "left_out" in said or not samples_ns:
        return Row(peer, title, ours, left_out=said.get("left_out", "no samples"))
    every = np.concatenate([np.asarray(r, np.float64) for r in samples_ns]) / 1e3
    best = np.asarray(min(samples_ns, key=np.median), np.float64) / 1e3
    forms: dict[str, Any] = {f"{name}_us": lowest(rounds) for name, rounds in (forms_ns or {}).items()}
    return Row(
        peer, title, ours, float(said["error"]), percentile(every, 0.5), percentile(every, 0.99),
        percentile(every, 0.999), lowest(samples_ns), len(every), said.get("note", ""),
        best_p99_us=percentile(best, 0.99), cold_us=lowest(cold_ns), **forms,
    )  # fmt: skip


def lowest(rounds: Rounds) -> float | None:
    """The lowest median of a round, in us."""
    return min(float(np.median(r)) for r in rounds) / 1e3 if rounds else None


def percentile(samples: np.ndarray, share: float) -> float | None:
    """None where not even one sample is expected beyond it."""
    if len(samples) * (1 - share) < 1 - 1e-9:
        return None
    return float(np.quantile(samples, share, method="higher"))


def distinct(every: Sequence[Duel]) -> list[Duel]:
    """Without the classes in which the same two win as in the one before."""
    pairs = [tuple(row.peer if row else None for row in (duel.peer, duel.ours)) for duel in every]
    return [duel for i, duel in enumerate(every) if i == 0 or pairs[i] != pairs[i - 1]]


def best_of(rows: Sequence[Row], limit: str, ours: bool, time: str = "best_us") -> Row | None:
    found = [row for row in rows if row.ours == ours and row.within(CLASSES[limit], time)]
    return min(found, key=lambda row: float(getattr(row, time)), default=None)


def duels(rows: Sequence[Row], time: str = "best_us") -> list[Duel]:
    """One for each error class, by this time of a row."""
    return [Duel(c, best_of(rows, c, False, time), best_of(rows, c, True, time), time) for c in CLASSES]
