"""The Numenta Anomaly Benchmark: its series, published results, and the score of its standard profile.

Lavin and Ahmad, Evaluating Real-time Anomaly Detection Algorithms, 2015: the earliest alert in a window counts by a sigmoid of
its place, an alert outside costs up to 0.11, a window without one costs 1; the first 15 % of a file, 750 rows at most, count
for nothing. 100 is every window found at its beginning, 0 is no alert at all.
"""

from __future__ import annotations

import csv
import datetime
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

FALSE_ALERT = 0.11


class Series(NamedTuple):
    name: str  # folder/file.csv
    seconds: NDArray[np.float64]
    values: NDArray[np.float64]
    windows: list[tuple[int, int]]  # rows, both included

    @property
    def folder(self) -> str:
        return self.name.partition("/")[0]


def seconds_of(text: str) -> float:
    stamp = datetime.datetime.fromisoformat(text.partition(".")[0])
    return (stamp - datetime.datetime(1970, 1, 1)).total_seconds()


def read(folder: Path) -> list[Series]:
    """Of a checkout of numenta/NAB (all 58 files), or of a folder with windows.json and <folder>__<file>.csv beside it."""
    whole = folder / "labels" / "combined_windows.json"
    windows = json.loads((whole if whole.exists() else folder / "windows.json").read_text())
    found = []
    for name, spans in windows.items():
        path = folder / "data" / name if whole.exists() else folder / name.replace("/", "__")
        with path.open() as file:
            rows = list(csv.DictReader(file))
        seconds = np.array([seconds_of(row["timestamp"]) for row in rows])
        ends = [(seconds_of(a), seconds_of(b)) for a, b in spans]
        places = [(int(np.searchsorted(seconds, a)), int(np.searchsorted(seconds, b, "right")) - 1) for a, b in ends]
        values = np.array([float(row["value"]) for row in rows])
        found.append(Series(name.replace("__", "/"), seconds, values, places))
    return found


def published(folder: Path, names: Sequence[str]) -> dict[str, list[float]]:
    """detector -> its published score of each of these series, from NAB's results, tuned on all 58 files."""
    found: dict[str, dict[str, float]] = {}
    table = folder / "published_standard_scores.csv"
    if table.exists():
        with table.open() as file:
            for row in csv.DictReader(file):
                found.setdefault(row["detector"], {})[row["file"].replace("__", "/")] = float(row["score"])
    else:
        for path in sorted((folder / "results").glob("*/*_standard_scores.csv")):
            with path.open() as file:
                found[path.parent.name] = {
                    row["File"]: float(row["Score"]) for row in csv.DictReader(file) if row["File"]
                }
    return {detector: [of[n] for n in names] for detector, of in found.items() if all(n in of for n in names)}


def sigmoid(x: float) -> float:
    return -1.0 if x > 3 else 2 / (1 + math.exp(5 * x)) - 1


def file_score(alerts: Sequence[int], windows: Sequence[tuple[int, int]], rows: int) -> float:
    """Of the rows that are alerts, by NAB's standard profile."""
    probation = int(0.15 * min(rows, 5000))
    best: list[float | None] = [None] * len(windows)
    total = 0.0
    for row in alerts:
        if row < probation:
            continue
        inside = next((i for i, (first, last) in enumerate(windows) if first <= row <= last), None)
        if inside is not None:
            first, last = windows[inside]
            gained = sigmoid(-(last - row + 1) / (last - first + 1)) / sigmoid(-1.0)
            best[inside] = max(gained, best[inside] or -1.0)
            continue
        passed = [(first, last) for first, last in windows if last < row]
        if passed:
            first, last = passed[-1]
            total += FALSE_ALERT * sigmoid((row - last) / (last - first))
        else:
            total -= FALSE_ALERT
    return total + sum(-1.0 if gained is None else gained for gained in best)


def standard_score(scores: Sequence[float], windows: int) -> float:
    """0 to 100 from the sum over files."""
    return 100 * (sum(scores) + windows) / (2 * windows)
