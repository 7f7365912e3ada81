"""One controller, five ways to estimate the force that the model does not know.

The nominal law tracks a reference through desired acceleration, tilt and torque. What it adds for the unknown force per mass d is
`estimate`: nothing (PD), an integral of the position error (PID), or from the accelerometer's rest, d = a - thrust / m + g:

    l1       a low-pass of d, 15 rad/s: the piecewise-constant adaptation of L1 control with its filter
    rls      w phi(v, tilt, thrust), with w learned by recursive least squares at each step
    rls_l1   w phi, and the low-pass of what is left, d - w phi
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import torch

import rtaccel as rt
from examples.adaptive_control.plant import DT, GRAVITY, INERTIA, LAG, MASS

KINDS = ("pd", "pid", "l1", "rls", "rls_l1")

POSITION, VELOCITY, INTEGRAL = 6.0, 4.0, 2.0
TILT, RATE = 300.0, 27.0
"""Gains of position (1/s^2, 1/s, 1/s^3) and of tilt (1/s^2, 1/s)."""

BANDWIDTH = 15.0
"""Of the low-pass, rad/s."""

FEATURES, FORGET = 32, 0.9998
"""tanh features of the state, and how fast they are learned anew: some 5 s."""

P0, D_MAX = 1.0, 100.0
"""Variance of the weights before anything is learned, and its bound."""

MOST = 8.0
"""Bound on the estimate of each axis in m/s^2: what is learned can never ask for more."""


class Basis(torch.nn.Module):
    """tanh(W s + b) of the scaled state s = (vx, vz, tilt, thrust), [batch, 4] to [batch, features]: random and fixed."""

    def __init__(self, features: int = FEATURES, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.layer = torch.nn.Linear(4, features)
        scale = torch.tensor([0.5, 0.5, 2.0, 0.2])
        with torch.no_grad():
            self.layer.weight.copy_(torch.randn(features, 4, generator=generator) * scale)
            self.layer.bias.copy_(torch.randn(features, generator=generator))

    def forward(self, s: torch.Tensor) -> Any:
        return torch.tanh(self.layer(s))


@cache
def compiled() -> rt.CompiledModel:
    """The basis as one native call; it has no state, so every controller binds the same."""
    return rt.compile(Basis().eval(), (torch.zeros(1, 4),))


class Controller:
    """Called once a millisecond; keeps its own estimate of the thrust that the motors give."""

    def __init__(self, kind: str, basis: rt.CompiledModel | None = None) -> None:
        self.low_pass = kind in ("l1", "rls_l1")
        self.learns = kind in ("rls", "rls_l1")
        self.integral = INTEGRAL if kind == "pid" else 0.0
        self.sum_x = self.sum_z = self.rest_x = self.rest_z = self.dx = self.dz = 0.0
        self.thrust = MASS * GRAVITY
        if self.learns:
            basis = basis or compiled()
            state = torch.zeros(1, 4)
            phi = basis(state).clone()
            self.head = rt.online.RLSHead(phi.shape[1], 2, forget=FORGET, p0=P0, d_max=D_MAX)
            self.state, self.target = state.numpy()[0], np.zeros(2, np.float32)
            self.learned = np.zeros(2, np.float32)
            self._features = basis.bind(state, out=phi)
            self._learn = self.head.bind(phi.numpy()[0], self.target, out=self.learned)

    def step(
        self, x: float, z: float, vx: float, vz: float, tilt: float, rate: float, ax: float, az: float, want: Any
    ) -> tuple[float, float]:
        """(thrust N, torque N m). want: a row of `reference`. ax, az: acceleration along x and z, noisy; NaN for none."""
        px, pz, wx, wz, bx, bz, jx, jz = want
        ex, ez = px - x, pz - z
        s, c = math.sin(tilt), math.cos(tilt)
        if self.low_pass or self.learns:
            lift = self.thrust / MASS
            self._estimate(vx, vz, tilt, ax - lift * s, az - lift * c + GRAVITY)
        elif self.integral:
            self.sum_x += DT * ex
            self.sum_z += DT * ez
            self.dx, self.dz = _bounded(-self.integral * self.sum_x), _bounded(-self.integral * self.sum_z)
        cx = bx + POSITION * ex + VELOCITY * (wx - vx) - self.dx
        cz = bz + POSITION * ez + VELOCITY * (wz - vz) - self.dz + GRAVITY
        thrust = MASS * (cx * s + cz * c)
        turn = (jx * cz - cx * jz) / (cx * cx + cz * cz)
        torque = INERTIA * (TILT * (math.atan2(cx, cz) - tilt) + RATE * (turn - rate))
        self.thrust += DT / LAG * (thrust - self.thrust)
        return thrust, torque

    def _estimate(self, vx: float, vz: float, tilt: float, dx: float, dz: float) -> None:
        if not (math.isfinite(dx) and math.isfinite(dz)):
            return  # no measurement: the last estimate holds
        learned_x = learned_z = 0.0
        if self.learns:
            state, target = self.state, self.target
            state[0], state[1], state[2], state[3] = vx, vz, tilt, self.thrust / MASS - GRAVITY
            target[0], target[1] = dx, dz
            self._features()
            self._learn()  # writes w phi, then learns
            learned_x, learned_z = self.learned.tolist()
        if self.low_pass:
            self.rest_x += DT * BANDWIDTH * (dx - learned_x - self.rest_x)
            self.rest_z += DT * BANDWIDTH * (dz - learned_z - self.rest_z)
        self.dx, self.dz = _bounded(learned_x + self.rest_x), _bounded(learned_z + self.rest_z)


def _bounded(value: float) -> float:
    return min(max(value, -MOST), MOST)
