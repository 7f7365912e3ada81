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

from examples._shared.data import reads

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


@reads("NAB's list of labeled windows")
def _windows(path: Path) -> dict[str, list[tuple[float, float]]]:
    found = json.loads(path.read_text(encoding="utf-8"))
    return {name: [(seconds_of(a), seconds_of(b)) for a, b in spans] for name, spans in found.items()}


@reads("a series of NAB, a head with timestamp and value and a row for each")
def _series(path: Path, name: str, ends: Sequence[tuple[float, float]]) -> Series:
    with path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        raise ValueError("no rows")
    ragged = [i + 2 for i, row in enumerate(rows) if None in row or None in row.values()]
    if ragged:
        raise ValueError(f"row {ragged[0]} has other cells than the head")
    seconds = np.array([seconds_of(row["timestamp"]) for row in rows])
    values = np.array([float(row["value"]) for row in rows])
    places = [(int(np.searchsorted(seconds, a)), int(np.searchsorted(seconds, b, "right")) - 1) for a, b in ends]
    return Series(name.replace("__", "/"), seconds, values, [(a, b) for a, b in places if a <= b])


def read(folder: Path) -> list[Series]:
    """Of a checkout of numenta/NAB (all 58 files), or of a folder with windows.json and <folder>__<file>.csv beside it."""
    whole = folder / "labels" / "combined_windows.json"
    windows = _windows(whole if whole.exists() else folder / "windows.json")
    places = {n: folder / "data" / n if whole.exists() else folder / n.replace("/", "__") for n in windows}
    return [_series(places[name], name, ends) for name, ends in windows.items()]


@reads("a folder with NAB's results")
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
