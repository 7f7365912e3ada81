"""Telemetry of spacecraft: channels of SMAP and MSL with labeled anomalies, and how a score is judged.

Hundman, Constantinou, Laporte, Colwell and Soderstrom, Detecting Spacecraft Anomalies Using LSTMs and Nonparametric Dynamic
Thresholding, KDD 2018.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from examples._shared.data import reads
from examples._shared.outcome import Missing

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

LABELS = "labels.json"
SOURCE = "take channels of SMAP and MSL (khundman/telemanom, Caltech/JPL license) as README.md says"

COMMANDS = 54
"""Columns of commands of the widest channel; others have zeros behind theirs."""

WIDTH = 1 + COMMANDS
LIMIT = 3.0
"""Values are scaled to -1 to 1 in training; beyond 3 they are cut, so that one of 258 does not decide everything."""


class Channel(NamedTuple):
    """train [n, 55], test [m, 55]: the value, then commands. anomalies: first and last rows of test."""

    name: str
    train: F32
    test: F32
    anomalies: list[tuple[int, int]]

    @property
    def truth(self) -> NDArray[np.bool_]:
        marked = np.zeros(len(self.test), bool)
        for first, last in self.anomalies:
            marked[first : last + 1] = True
        return marked


def read(folder: Path) -> list[Channel]:
    """All channels with a file <name>.npz (train, test) that labels.json has. Raises Missing for a file of another form."""
    found: list[Channel] = []
    for name, anomalies in _labels(folder / LABELS).items():
        path = folder / f"{name}.npz"
        if not path.exists():
            continue
        found.append(Channel(name, *(_rows(name, part) for part in _tables(path)), anomalies))
    return found


@reads('labels of channels, {"<name>": {"anomalies": [[first, last], ...]}}')
def _labels(path: Path) -> dict[str, list[tuple[int, int]]]:
    found = json.loads(path.read_text(encoding="utf-8"))
    return {name: [(int(a), int(b)) for a, b in about["anomalies"]] for name, about in found.items()}


@reads("a file of the arrays train and test")
def _tables(path: Path) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    with np.load(path, allow_pickle=False) as data:
        return data["train"], data["test"]


def _rows(name: str, table: NDArray[np.floating]) -> F32:
    if table.ndim != 2 or not 1 <= table.shape[1] <= WIDTH or len(table) < 200 or not np.isfinite(table).all():
        raise Missing(
            f"channel {name} has {list(table.shape)} rows and columns; at least 200 finite rows of a value and at most "
            f"{COMMANDS} commands are needed. Take another file."
        )
    out = np.zeros((len(table), WIDTH), np.float32)
    out[:, : table.shape[1]] = table
    out[:, 0] = np.clip(out[:, 0], -LIMIT, LIMIT)
    return out


def smoothed(errors: F64, rate: float = 0.02) -> F64:
    """EWMA of [time, channels], which looks back only."""
    out, level = np.empty_like(errors), errors[0]
    for t, row in enumerate(errors):
        level = level + max(rate, 1 / (t + 1)) * (row - level)
        out[t] = level
    return out
