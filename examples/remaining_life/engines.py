"""C-MAPSS FD001: engines that run to failure, and engines whose remaining life is asked for.

Saxena, Goebel, Simon and Eklund, Damage Propagation Modeling for Aircraft Engine Run-to-Failure Simulation, PHM 2008.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from examples._shared.data import reads
from rtaccel.online import Bank
from rtaccel.online.features import Count, Ewma, First, LogCount, Mean

F32 = NDArray[np.float32]

FILES = ("train_FD001.csv", "train_FD001.txt")
SOURCE = (
    "download C-MAPSS (NASA Prognostics Center of Excellence, data set 6: turbofan engine degradation) and unpack it"
)

SENSORS = [2, 3, 4, 7, 8, 9, 11, 12, 13, 14, 15, 17, 20, 21]
"""Those that move."""

CAP = 125.0
"""Cycles: more of remaining life is not told apart, as is usual for this set."""

WARM_UP = 10
"""Cycles of an engine that are not learned from."""

FEATURES = [
    Ewma(0.2), Ewma(0.1), Ewma(0.05), Ewma(0.1) - Ewma(0.02), Ewma(0.05) - First(10), Mean(), Count(1 / 200), LogCount(1 / 5),
]  # fmt: skip
"""Six of each sensor, and two of the age: 86."""


class Fleet(NamedTuple):
    """train, test: sensors of each engine, [cycles, 14]. remaining: true cycles left after the last of each test engine."""

    train: list[F32]
    test: list[F32]
    remaining: F32


def read(folder: Path) -> Fleet:
    """folder: with train_FD001.csv and test_FD001.csv (unit,cycle,setting1-3,s1..s21), or NASA's .txt files without a head."""
    return Fleet(
        _engines(_file(folder, "train_FD001")),
        _engines(_file(folder, "test_FD001")),
        _remaining(folder / "RUL_FD001.txt"),
    )


def _file(folder: Path, name: str) -> Path:
    path = folder / f"{name}.csv"
    return path if path.exists() else folder / f"{name}.txt"


@reads("a column of numbers, the cycles left of each test engine")
def _remaining(path: Path) -> F32:
    return np.loadtxt(path, dtype=np.float32, ndmin=1)


@reads("a table of C-MAPSS with 26 columns: unit, cycle, three settings, 21 sensors")
def _engines(path: Path) -> list[F32]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of an empty file, which is refused below
        form = {"delimiter": ",", "skiprows": 1} if path.suffix == ".csv" else {}
        rows = np.loadtxt(path, ndmin=2, **form)
    if rows.shape[1:] != (26,) or not len(rows):
        raise ValueError(f"{rows.shape[0]} rows of {rows.shape[1]} columns")
    if not np.isfinite(rows).all():
        raise ValueError(f"row {int(np.flatnonzero(~np.isfinite(rows).all(1))[0]) + 1} has a value that is missing")
    sensors = rows[:, [4 + s for s in SENSORS]].astype(np.float32)
    return [sensors[rows[:, 0] == unit] for unit in np.unique(rows[:, 0])]


def bank(streams: int = 1) -> Bank:
    return Bank([f"s{i}" for i in SENSORS], FEATURES, streams=streams)


def features(sensors: F32) -> F32:
    """[cycles, 86], each from the cycles before it alone."""
    return bank().run(sensors)[:, 0]


def targets(cycles: int) -> F32:
    """min(remaining life, 125) / 125 of each cycle of an engine that failed after the last."""
    return np.minimum(np.arange(cycles - 1, -1, -1), CAP).astype(np.float32) / np.float32(CAP)


def rmse(predicted: F32, remaining: F32) -> float:
    """In cycles; truth capped at 125."""
    return float(np.sqrt(np.mean((predicted - np.minimum(remaining, CAP)) ** 2)))


def phm_score(predicted: F32, remaining: F32) -> float:
    """Of the PHM 2008 challenge, smaller is better: late is worse than early. Truth capped at 125."""
    d = predicted.astype(np.float64) - np.minimum(remaining, CAP)
    return float(np.sum(np.where(d < 0, np.exp(-d / 13), np.exp(d / 10)) - 1))
