"""The Numenta Anomaly Benchmark: its series in the test data, and the score of its standard profile.

Lavin and Ahmad, Evaluating Real-time Anomaly Detection Algorithms, 2015: the earliest alert in a window counts by a sigmoid of
its place, an alert outside costs up to 0.11, a window without one costs 1; the first 15 % of a file, 750 rows at most, count
for nothing. 100 is every window found at its beginning, 0 is no alert at all.
"""

from __future__ import annotations

import csv
import datetime
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

FALSE_ALERT = 0.11


class Series(NamedTuple):
    name: str
    seconds: NDArray[np.float64]
    values: NDArray[np.float64]
    windows: list[tuple[int, int]]  # rows, both included


def seconds_of(text: str) -> float:
    stamp = datetime.datetime.fromisoformat(text.partition(".")[0])
    return (stamp - datetime.datetime(1970, 1, 1)).total_seconds()


def series() -> list[Series]:
    """Those of the folder nab in the test data; skips where it is not there."""
    folder = Path(os.environ.get("RTACCEL_TEST_DATA", "/nowhere")) / "nab"
    if not folder.exists():
        pytest.skip(f"no {folder}: set RTACCEL_TEST_DATA")
    return read(folder)


def read(folder: Path) -> list[Series]:
    windows = json.loads((folder / "windows.json").read_text())
    found = []
    for name, spans in windows.items():
        with (folder / name.replace("/", "__")).open() as file:
            rows = list(csv.DictReader(file))
        seconds = np.array([seconds_of(row["timestamp"]) for row in rows])
        ends = [(seconds_of(a), seconds_of(b)) for a, b in spans]
        places = [(int(np.searchsorted(seconds, a)), int(np.searchsorted(seconds, b, "right")) - 1) for a, b in ends]
        found.append(Series(name, seconds, np.array([float(row["value"]) for row in rows]), places))
    return found


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
