"""Scores of a series, and its alerts gathered into events."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rtaccel.cli._detect.table import Table
from rtaccel.online.records import Records

F64 = NDArray[np.float64]

NEVER = 1e299
"""A threshold that no score reaches."""

APART = 20
"""Alerts at most so many rows apart are one event."""

RULES = ("range", "season", "jump")


@dataclass(frozen=True)
class Event:
    """Alerts that belong together. first, last: rows. row: of the largest score. rule: which one that is of."""

    first: int
    last: int
    row: int
    score: float
    rule: str
    alerts: int


@dataclass(frozen=True, eq=False)
class Found:
    """scores [n], NaN where a value is missing; ns_per_value: of the pass, or the calls, that gave them."""

    table: Table
    thresholds: dict[str, float]
    scores: F64
    events: list[Event]
    ns_per_value: float


def parts(values: F64, seconds: F64 | None) -> F64:
    """The three scores apart, each over a threshold of 1: [3, n]."""
    alone = [[1.0 if rule == one else NEVER for rule in RULES] for one in RULES]
    return np.stack([Records(a, b, c).score_series(values, seconds) for a, b, c in alone])


def find(table: Table, thresholds: dict[str, float], scored: tuple[F64, int] | None = None) -> Found:
    """thresholds: range, season, jump, as Records has them. scored: the scores by these and the ns that they took, where the
    values were scored as they came."""
    if scored is not None:
        return _found(table, thresholds, *scored)
    detector = Records(thresholds["range"], thresholds["season"], thresholds["jump"])
    begin = time.perf_counter_ns()
    scores = detector.score_series(table.values, table.seconds)
    return _found(table, thresholds, scores, time.perf_counter_ns() - begin)


def _found(table: Table, thresholds: dict[str, float], scores: F64, took: int) -> Found:
    if not (scores >= 1).any():
        return Found(table, thresholds, scores, [], took / len(scores))
    each = parts(table.values, table.seconds) / np.array([thresholds[rule] for rule in RULES])[:, None]
    return Found(table, thresholds, scores, events(scores, each), took / len(scores))


def events(scores: F64, each: F64) -> list[Event]:
    """scores [n]; each [3, n], the score by each rule."""
    rows = np.flatnonzero(np.nan_to_num(scores) >= 1)
    if not len(rows):
        return []
    found = []
    for group in np.split(rows, np.flatnonzero(np.diff(rows) > APART) + 1):
        row = int(group[np.argmax(scores[group])])
        rule = RULES[int(np.argmax(each[:, row]))]
        found.append(Event(int(group[0]), int(group[-1]), row, float(scores[row]), rule, len(group)))
    return found
