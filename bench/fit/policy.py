"""A walking policy judged in closed loop: how well it keeps its speed in simulation for 20 s. Needs mujoco and the test data."""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor, nn

import rtaccel as rt
from bench.fit.figures import LOOSE
from tests.support.networks.real_networks import WalkingPolicy, arrays, folder, walking_policy
from tests.support.networks.walking import walk

MAX_DROP = 0.015
"""Metres per second of velocity error that int8 may add; float32 has 0.039."""


class _Step(nn.Module):
    """(observation [batch, 47], h, c [1, batch, 64]) to (joint targets [batch, 12], h, c)."""

    def __init__(self, policy: WalkingPolicy) -> None:
        super().__init__()
        self.memory, self.actor = policy.memory, policy.actor

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y, (h, c) = self.memory(x[None], (h, c))
        return self.actor(y[0]), h, c


class _Live:
    """A step with states outside as the simulation calls a stream."""

    def __init__(self, model: Any) -> None:
        self._model, self._states = model, (torch.zeros(1, 1, 64), torch.zeros(1, 1, 64))

    def bind(self, x: Tensor, out: Tensor) -> Any:
        def step() -> None:
            y, *states = self._model(x, *self._states)
            out.copy_(y)
            self._states = tuple(states)

        return step


def refuses_int4(seconds: float) -> None:
    """What is returned of float32, W8A8 and W4A8 rounded to the nearest, and what each of these loses."""
    data = folder("robot_g1", "policy.npz")
    if data is None:
        raise SystemExit("no robot_g1 in the test data folder (set RTACCEL_TEST_DATA)")
    policy, observed = walking_policy(data), arrays(data / "trace.npz")["obs"]
    config = json.loads((data / "config.json").read_text())
    step = _Step(policy).eval()
    given: list[tuple[Tensor, ...]] = []
    states: tuple[Tensor, ...] = (torch.zeros(1, 1, 64), torch.zeros(1, 1, 64))
    with torch.no_grad():
        for x in observed[:400]:
            given.append((x[None], *states))
            states = step(x[None], *states)[1:]

    def speed(model: Any) -> float:
        done = walk(data, config, _Live(model))  # type: ignore[arg-type]
        return -done.rmse if done.fell_at is None else -1.0

    fit = rt.fit_budget(step, given[0], LOOSE, given, metric=speed, max_drop=MAX_DROP,
                        options=("float32", rt.W8A8(), rt.W4A8()), seconds=seconds)  # fmt: skip
    print(f"walking policy, {MAX_DROP:g} m/s permitted: {fit.seconds:.0f} s; {fit.reason}")
    for c in fit.candidates:
        print(
            f"  {c.name}: velocity error {fit.metric * -1 + (c.drop or 0.0):.4f} m/s, {'kept' if c.keeps else 'refused'}"
        )
    int4 = {} if fit.scheme is None else {n for n, s in fit.scheme.items() if isinstance(s, rt.W4A8)}
    print(f"  layers in int4: {sorted(int4) or 'none'}; notes: {'; '.join(fit.notes)}")
