"""The robot in simulation: joint torques 500 times a second, the policy 50 times."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import rtaccel as rt

SETTLED = 5.0
"""Seconds until the gait is steady; what the robot does before counts for falls alone."""

FALLEN = 0.5
"""Height of the base in metres below which the robot lies; it walks at 0.76 to 0.8."""

GAIT_PERIOD = 0.8


@dataclass(frozen=True)
class Walk:
    """velocity: forward, at each step of the policy. fell_at: seconds, None where it stayed up. distance: forward."""

    velocity: NDArray[np.float64]
    observations: NDArray[np.float32]
    commanded: float
    steps_per_second: int
    distance: float
    fell_at: float | None

    @property
    def rmse(self) -> float:
        """Of the forward velocity against the commanded one, once the gait is steady."""
        steady = self.velocity[int(SETTLED * self.steps_per_second) :]
        return float(np.sqrt(np.mean((steady - self.commanded) ** 2))) if len(steady) else float("inf")


def walk(data: Path, config: dict[str, Any], live: rt.StreamModel, seconds: float = 20.0) -> Walk:
    """Lets a streamed policy walk until the time is over or it has fallen. Skips the test without mujoco."""
    mujoco = pytest.importorskip("mujoco", reason="needs the package mujoco")
    model = mujoco.MjModel.from_xml_path(str(data / "g1_12dof_nomesh.xml"))
    model.opt.timestep = config["sim_dt"]
    robot = mujoco.MjData(model)
    stiffness, damping, rest = (np.array(config[key], dtype=np.float64) for key in ("kp", "kd", "default_angles"))
    command = np.array(config["cmd"], dtype=np.float64)
    target, action = rest, np.zeros(12, dtype=np.float32)
    x, y = torch.empty(1, 47), torch.empty(1, 12)
    step = live.bind(x, out=y)
    velocity, observations, fell_at = [], [], None
    for tick in range(1, round(seconds / config["sim_dt"]) + 1):
        robot.ctrl[:] = stiffness * (target - robot.qpos[7:]) - damping * robot.qvel[6:]
        mujoco.mj_step(model, robot)
        if tick % config["policy_every"]:
            continue
        time = tick * config["sim_dt"]
        seen = _observation(robot, command, rest, action, time)
        x.copy_(torch.from_numpy(seen)[None])
        step()
        action = y[0].numpy().copy()
        target = rest + config["action_scale"] * action
        velocity.append(float(robot.qvel[0]))
        observations.append(seen)
        if robot.qpos[2] < FALLEN:
            fell_at = time
            break
    rate = round(1 / (config["sim_dt"] * config["policy_every"]))
    return Walk(
        np.array(velocity), np.stack(observations), float(command[0]), rate, float(robot.qpos[0]), fell_at
    )  # fmt: skip


def _observation(
    robot: Any, command: NDArray[np.float64], rest: NDArray[np.float64], action: NDArray[np.float32], time: float
) -> NDArray[np.float32]:
    w, x, y, z = robot.qpos[3:7]
    down = (2 * (w * y - x * z), -2 * (y * z + w * x), 2 * (x * x + y * y) - 1)  # in the frame of the base
    phase = 2 * np.pi * (time % GAIT_PERIOD) / GAIT_PERIOD
    parts = (
        robot.qvel[3:6] * 0.25, down, command * (2, 2, 0.25), robot.qpos[7:] - rest, robot.qvel[6:] * 0.05, action,
        (np.sin(phase), np.cos(phase)),
    )  # fmt: skip
    return np.concatenate(parts).astype(np.float32)
