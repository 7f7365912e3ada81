"""The recording: nine sensors of a Space Shuttle, cut into windows of eight readings.

The set is Statlog (Shuttle) of the UCI repository in its anomaly-detection form (ODDS): 49,097 readings, 3,511 of them
anomalies. It lies inside the `river` package, so nothing is downloaded. Its publishers shuffled the readings: a window
is eight readings in published order, and what there is to learn lies between the sensors, not in time.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rtaccel.core.errors import BackendUnavailable

WINDOW = 8
"""Readings in one model input."""

TRAIN_SHARE = 0.6
"""The first readings, in order; the later ones are for testing."""

CLAMP = 5.0
"""Standard deviations at which a reading is clamped, as a sensor with a fixed range would. Anomalies reach hundreds."""


@dataclass(frozen=True)
class Recording:
    """normal: float32 [R, sensors], the normal readings of the training part, standardized.

    windows: float32 [T, WINDOW * sensors], the test part cut up without overlap. anomalous: bool [T], whether any
    reading of the window is an anomaly. readings, anomalies: counts over the whole recording.
    """

    normal: Tensor
    windows: Tensor
    anomalous: np.ndarray
    readings: int
    anomalies: int

    @property
    def width(self) -> int:
        return self.windows.shape[1]


def load() -> Recording:
    """Reads the recording. Raises BackendUnavailable, with what to install, where `river` is not there."""
    if importlib.util.find_spec("river") is None:
        raise BackendUnavailable(
            "demo", "no package river", "river, which holds the recording", "pip install 'rtaccel[demo]'"
        )
    from river import datasets

    rows = [(tuple(x.values()), y) for x, y in datasets.Shuttle()]
    values = np.array([x for x, _ in rows], dtype=np.float64)
    return prepare(values, np.array([y for _, y in rows], dtype=bool))


def prepare(values: np.ndarray, anomaly: np.ndarray) -> Recording:
    """Splits by order, standardizes and cuts. values [R, sensors], anomaly [R] booleans."""
    split = int(len(values) * TRAIN_SHARE)
    seen = values[:split][~anomaly[:split]]
    mean, deviation = seen.mean(axis=0), seen.std(axis=0)

    def standard(part: np.ndarray) -> Tensor:
        return torch.from_numpy(np.clip((part - mean) / deviation, -CLAMP, CLAMP).astype(np.float32))

    count = (len(values) - split) // WINDOW
    stop = split + count * WINDOW
    return Recording(
        normal=standard(seen),
        windows=standard(values[split:stop]).reshape(count, -1),
        anomalous=np.asarray(anomaly[split:stop].reshape(count, WINDOW).any(axis=1)),
        readings=len(values),
        anomalies=int(anomaly.sum()),
    )


def normal_windows(normal: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """`count` windows of consecutive normal readings from random places: [count, WINDOW * sensors]."""
    first = torch.randint(0, len(normal) - WINDOW + 1, (count,), generator=generator)
    return normal[first[:, None] + torch.arange(WINDOW)].reshape(count, -1)
