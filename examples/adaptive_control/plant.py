"""A planar quadrotor in gusty wind, 1 kHz: thrust along its axis, torque, both behind 20 ms of motor lag.

    m v' = T (sin th, cos th) - m g (0, 1) + drag(v - wind, th),   th' = w,   J w' = torque

Drag is linear and quadratic in the air's speed along the body's two axes, and rotors lose thrust as air comes from above. The
controller knows none of this.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]

DT, GRAVITY, MASS, INERTIA, LAG = 1e-3, 9.81, 1.0, 0.01, 0.02
ACCELEROMETER = 0.3
"""Standard deviation of its noise in m/s^2, white at 1 kHz."""

PERIOD, WIDE, HIGH = 7.0, 1.5, 0.5
"""Of the figure of eight: seconds, meters to each side, meters up and down."""

DRAG_X, DRAG_XX, DRAG_Z, DRAG_ZZ, LOSS = 0.06, 0.05, 0.10, 0.09, 0.05
"""Per m/s and per (m/s)^2 along the body's axes, in N; and the thrust lost per m/s of air from above, in N."""

GUSTS, GUST_TIME = 0.15, 1.5
"""Deviation of the wind over its mean, and how long a gust lasts in seconds."""


def gusts(wind: float, steps: int, seed: int) -> tuple[F64, F64]:
    """Wind along x and z at each step, m/s: a mean along x, and gusts of an Ornstein-Uhlenbeck process."""
    rng = np.random.default_rng(seed)
    decay = math.exp(-DT / GUST_TIME)
    white = rng.normal(size=(steps, 2)) * math.sqrt(1 - decay**2)
    level, found = np.zeros(2), np.empty((steps, 2))
    for i, kick in enumerate(white):
        level = decay * level + kick
        found[i] = level
    return wind * (1 + GUSTS * found[:, 0]), wind * 0.5 * GUSTS * found[:, 1]


def reference(steps: int) -> F64:
    """Position, velocity, acceleration and jerk along x and z, [steps, 8], of a figure of eight."""
    t, rate = np.arange(steps) * DT, 2 * math.pi / PERIOD
    x = [WIDE * rate**k * np.sin(rate * t + k * math.pi / 2) for k in range(4)]
    z = [HIGH * (2 * rate) ** k * np.sin(2 * rate * t + k * math.pi / 2) for k in range(4)]
    return np.stack([part for pair in zip(x, z) for part in pair], axis=1)


@dataclass
class Quadrotor:
    """x, z, vx, vz in m and m/s; tilt in rad, rate in rad/s; thrust in N and torque in N m as the motors give them."""

    x: float = 0.0
    z: float = 0.0
    vx: float = WIDE * 2 * math.pi / PERIOD
    vz: float = HIGH * 4 * math.pi / PERIOD
    tilt: float = 0.0
    rate: float = 0.0
    thrust: float = MASS * GRAVITY
    torque: float = 0.0
    ax: float = 0.0
    az: float = 0.0

    def step(self, thrust: float, torque: float, wind_x: float, wind_z: float) -> None:
        """One millisecond with these commands."""
        blend = DT / LAG
        self.thrust += blend * (min(max(thrust, 0.0), 4 * MASS * GRAVITY) - self.thrust)
        self.torque += blend * (min(max(torque, -2.0), 2.0) - self.torque)
        s, c = math.sin(self.tilt), math.cos(self.tilt)
        ux, uz = self.vx - wind_x, self.vz - wind_z
        along, up = ux * c - uz * s, ux * s + uz * c
        force = -(DRAG_X + DRAG_XX * abs(along)) * along
        lift = self.thrust - (DRAG_Z + DRAG_ZZ * abs(up)) * up - LOSS * up
        self.ax = (force * c + lift * s) / MASS
        self.az = (lift * c - force * s) / MASS - GRAVITY
        self.vx += DT * self.ax
        self.vz += DT * self.az
        self.x += DT * self.vx
        self.z += DT * self.vz
        self.rate += DT * self.torque / INERTIA
        self.tilt += DT * self.rate
