"""The robot in MuJoCo: joint torques 500 times a second, the policy 50 times, with actions that come late or not at all."""

from __future__ import annotations

import importlib
import importlib.util
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import rtaccel as rt
from examples._shared.data import reads
from examples._shared.outcome import Missing
from examples.humanoid_policy.policy import JOINTS, OBSERVED

F32, F64 = NDArray[np.float32], NDArray[np.float64]
Act = Callable[[F32, float], F32 | None]
"""An observation [47] and its time in s to an action [12]; None where there is none."""

SETTLED, FALLEN, GAIT_PERIOD = 5.0, 0.5, 0.8
"""Seconds until the gait is steady, and the height of the base in m below which the robot lies."""


def mujoco() -> Any:
    if importlib.util.find_spec("mujoco") is None:
        raise Missing("no package mujoco, which is the robot's world: pip install mujoco.")
    try:
        return importlib.import_module("mujoco")
    except ImportError as error:
        raise Missing(
            f"the package mujoco cannot be imported ({error}): pip install --force-reinstall mujoco."
        ) from error


@reads("the settings of the robot")
def _config(path: Path) -> dict[str, Any]:
    found = json.loads(path.read_text(encoding="utf-8"))
    for key in ("sim_dt", "policy_every", "kp", "kd", "default_angles", "cmd"):
        found[key]
    return dict(found)


@reads("a robot that MuJoCo can load")
def _model(path: Path, mujoco: Any) -> Any:
    return mujoco.MjModel.from_xml_path(str(path))


@dataclass(frozen=True)
class Walk:
    """velocity, height: at each step of the policy, m/s and m. fell_at: seconds, None where it stayed up. distance: m."""

    velocity: F64
    height: F64
    actions: F32
    commanded: float
    fell_at: float | None
    distance: float

    @property
    def velocity_error(self) -> float:
        """RMSE of the forward velocity against the commanded one in m/s, once the gait is steady."""
        steady = self.velocity[round(SETTLED * 50) :]
        return float(np.sqrt(np.mean((steady - self.commanded) ** 2))) if len(steady) else float("inf")


class Robot:
    """Its world, from standing. config.json of the data says gains and times."""

    def __init__(self, folder: Path) -> None:
        self.mujoco = mujoco()
        self.config = _config(folder / "config.json")
        self.model = _model(folder / "g1_12dof_nomesh.xml", self.mujoco)
        self.model.opt.timestep = self.config["sim_dt"]
        self.tick_s, self.every = self.config["sim_dt"], self.config["policy_every"]
        self.stiffness, self.damping, self.rest = (
            np.array(self.config[k], float) for k in ("kp", "kd", "default_angles")
        )
        self.command = np.array(self.config["cmd"], float)

    def walk(self, act: Act, seconds: float, delay_ms: float = 0.0, lost: float = 0.0, seed: int = 0) -> Walk:
        """Until the time is over or the robot has fallen.

        delay_ms: from a measurement to the torques that know of it. lost: share of the observations that never arrive: the
        policy makes no step then, and the last action holds.
        """
        world, draw = self.mujoco.MjData(self.model), np.random.default_rng(seed)
        target, action = self.rest, np.zeros(JOINTS, np.float32)
        late = round(delay_ms / 1000 / self.tick_s)
        coming: list[tuple[int, F32]] = []
        velocity, height, actions, fell_at = [], [], [], None
        for tick in range(1, round(seconds / self.tick_s) + 1):
            while coming and coming[0][0] < tick:
                target = self.rest + self.config["action_scale"] * coming.pop(0)[1]
            world.ctrl[:] = self.stiffness * (target - world.qpos[7:]) - self.damping * world.qvel[6:]
            self.mujoco.mj_step(self.model, world)
            if tick % self.every:
                continue
            now = tick * self.tick_s
            if not lost or draw.random() >= lost:
                made = act(self._observed(world, action, now), now)
                if made is not None:
                    action = made
                    coming.append((tick + late, action))
            velocity.append(float(world.qvel[0]))
            height.append(float(world.qpos[2]))
            actions.append(action)
            if world.qpos[2] < FALLEN:
                fell_at = now
                break
        return Walk(
            np.array(velocity),
            np.array(height),
            np.stack(actions),
            float(self.command[0]),
            fell_at,
            float(world.qpos[0]),
        )

    def _observed(self, world: Any, action: F32, now: float) -> F32:
        w, x, y, z = world.qpos[3:7]
        down = (2 * (w * y - x * z), -2 * (y * z + w * x), 2 * (x * x + y * y) - 1)  # in the frame of the base
        phase = 2 * np.pi * (now % GAIT_PERIOD) / GAIT_PERIOD
        parts = (
            world.qvel[3:6] * 0.25, down, self.command * (2, 2, 0.25), world.qpos[7:] - self.rest, world.qvel[6:] * 0.05,
            action, (np.sin(phase), np.cos(phase)),
        )  # fmt: skip
        return np.concatenate(parts).astype(np.float32)


def directly(live: rt.StreamModel) -> Act:
    """Steps of a stream in the same thread."""
    live.reset()
    x, y = torch.zeros(1, OBSERVED), torch.zeros(1, JOINTS)
    step, given, made = live.bind(x, out=y), x.numpy()[0], y.numpy()[0]

    def act(observed: F32, now: float) -> F32:
        given[:] = observed
        step()
        return made.copy()

    return act


def from_artefact(live: rt.StreamModel, file: Path) -> Act:
    """Steps of what `rt.save` wrote, loaded back: no model, no calibration."""
    live.reset()
    rt.save(live, file)
    loaded = rt.load(file)
    return lambda observed, now: np.array(loaded.step(observed[None]), np.float32).reshape(-1).copy()


class InLoop:
    """Steps of a stream in an `rt.Loop`: a native thread that takes observations from a slot and puts actions into another.

    The simulated world waits for the action of each observation, so a run is the same every time. real_time: the world goes by
    the clock instead, the loop makes a step every 20 ms on what is newest, and the world takes the action that is there.
    """

    def __init__(self, live: rt.StreamModel, real_time: bool = False) -> None:
        live.reset()
        self.real_time = real_time
        self.seen, self.actions = rt.Latest((OBSERVED,)), rt.Latest((JOINTS,))
        if real_time:
            self.loop = rt.Loop(live, self.seen, self.actions, period_us=20_000, deadline_us=2_000, max_age_us=60_000)
        else:
            self.loop = rt.Loop(live, self.seen, self.actions, period_us=1000, deadline_us=1000, max_age_us=1e7,
                                on_miss="late", on_old="hold", spin_us=0, warm=False)  # fmt: skip
        self.begin = 0.0

    def __enter__(self) -> InLoop:
        self.loop.start()
        self.begin = time.monotonic()
        return self

    def __exit__(self, *error: Any) -> None:
        self.loop.stop()

    def __call__(self, observed: F32, now: float) -> F32 | None:
        if self.real_time:
            time.sleep(max(0.0, self.begin + now - time.monotonic()))
            self.seen.put(observed)
            sample = self.actions.get()
            return None if sample.status == "none" else np.array(sample.value, np.float32)
        stamp = time.monotonic_ns()
        self.seen.put(observed, stamp_ns=stamp)
        end = time.monotonic() + 10
        while time.monotonic() < end:
            sample = self.actions.get()
            if sample.status == "new" and sample.stamp_ns == stamp:  # held again every cycle, until there is another
                return np.array(sample.value, np.float32)
            time.sleep(0.0001)
        self.loop.stats()  # raises what ended the loop
        raise Missing("the loop gave no action for 10 s: see rt.realtime.check().")
