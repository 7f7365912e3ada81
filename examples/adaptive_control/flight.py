"""One flight of one controller in one wind."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

import rtaccel as rt
from examples.adaptive_control.control import Controller
from examples.adaptive_control.plant import ACCELEROMETER, Quadrotor, gusts, reference

F64 = NDArray[np.float64]

SETTLE = 10_000
"""Steps that are flown but not judged: PID and RLS start with nothing."""


@dataclass(frozen=True, eq=False)
class Flight:
    """path [steps, 2] in m, error [steps] in m."""

    kind: str
    wind: float
    path: F64
    error: F64

    @property
    def mean_cm(self) -> float:
        return float(self.error[SETTLE:].mean() * 100)

    @property
    def worst_cm(self) -> float:
        return float(self.error[SETTLE:].max() * 100)


def fly(kind: str, wind: float, steps: int, seed: int = 0, basis: rt.CompiledModel | None = None) -> Flight:
    """The same gusts and the same noise for every controller. basis: of those that learn; else the random one."""
    wind_x, wind_z = (part.tolist() for part in gusts(wind, steps, seed))
    noise = (np.random.default_rng(seed + 1).normal(size=(steps, 2)) * ACCELEROMETER).tolist()
    wanted = reference(steps).tolist()
    plant, controller, path = Quadrotor(), Controller(kind, basis), []
    for want, (nx, nz), gx, gz in zip(wanted, noise, wind_x, wind_z):
        commands = controller.step(
            plant.x, plant.z, plant.vx, plant.vz, plant.tilt, plant.rate, plant.ax + nx, plant.az + nz, want
        )
        plant.step(*commands, gx, gz)
        path.append((plant.x, plant.z))
    found = np.array(path)
    after = reference(steps + 1)[1:, :2]
    return Flight(kind, wind, found, np.hypot(*(found - after).T))
