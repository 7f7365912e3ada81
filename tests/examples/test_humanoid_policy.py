"""The policy walks in simulation: schemes, the loop and the file, late and lost messages. Nothing is timed."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

import rtaccel as rt
from examples.humanoid_policy import policy, run
from examples.humanoid_policy.walk import InLoop, Robot, Walk, directly, from_artefact
from tests.support.processes.run import PYTHON

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder() -> Path:
    found = Path(os.environ.get("RTACCEL_TEST_DATA", "/nowhere")) / "robot_g1"
    if not found.exists():
        pytest.skip(f"no {found}: set RTACCEL_TEST_DATA")
    return found


@pytest.fixture(scope="module")
def robot(folder: Path) -> Robot:
    pytest.importorskip("mujoco", reason="needs the package mujoco")
    return Robot(folder)


@pytest.fixture(scope="module")
def lives(folder: Path) -> dict[str, rt.StreamModel]:
    return {scheme: policy.streamed(folder, scheme) for scheme in policy.SCHEMES}


@pytest.fixture(scope="module")
def walks(robot: Robot, lives: dict[str, rt.StreamModel]) -> dict[str, Walk]:
    return {scheme: robot.walk(directly(live), 20.0) for scheme, live in lives.items()}


def test_network_gives_the_recorded_actions(folder: Path) -> None:
    observed, want = policy.recorded(folder)
    for evened in (False, True):
        with torch.no_grad():
            got = policy.policy(folder, evened)(observed[:, None])[:, 0]
        assert (got - want).abs().max() <= 1e-4


@pytest.mark.parametrize("scheme", run.LIMITS)
def test_it_walks(walks: dict[str, Walk], scheme: str) -> None:
    done = walks[scheme]
    assert done.fell_at is None and len(done.velocity) == 1000
    assert done.velocity_error <= run.LIMITS[scheme]
    assert done.height.min() > 0.7


def test_rounding_for_inputs_is_nearer_in_the_lstm_and_the_linear_layers(folder: Path) -> None:
    observed, want = policy.recorded(folder)
    windows = [observed.view(10, 100, 47).transpose(0, 1).contiguous()]

    def error(scheme: object) -> float:
        live = rt.stream(policy.policy(folder), observed[:1], scheme, calibration=windows)
        got = torch.cat([live.step(row[None]) for row in observed])
        return float((got - want).norm() / want.norm())

    nearest, gptq = policy.SCHEMES["W4A8"], policy.SCHEMES["W4A8, gptq"]
    assert error({"memory": "float32", "*": gptq}) < 0.4 * error({"memory": "float32", "*": nearest})
    assert error({"memory": gptq, "*": "float32"}) < 0.3 * error({"memory": nearest, "*": "float32"})
    assert error(gptq) < 0.06 < 0.2 < error(nearest)


def test_loop_and_file_make_the_same_steps(
    robot: Robot, lives: dict[str, rt.StreamModel], walks: dict[str, Walk], tmp_path: Path
) -> None:
    for scheme in ("float32", "W4A8"):
        with InLoop(lives[scheme]) as act:
            in_loop = robot.walk(act, 5.0)
        assert np.array_equal(in_loop.actions, walks[scheme].actions[:250])
        loaded = robot.walk(from_artefact(lives[scheme], tmp_path / "walk.rta"), 20.0)
        assert np.array_equal(loaded.actions, walks[scheme].actions)


def test_late_actions_hardly_matter_and_lost_ones_do(robot: Robot, lives: dict[str, rt.StreamModel]) -> None:
    live = lives["float32"]
    base = robot.walk(directly(live), 10.0)
    late = robot.walk(directly(live), 10.0, delay_ms=10)
    assert late.fell_at is None and late.velocity_error < base.velocity_error + 0.05
    assert not np.array_equal(late.actions[5:], base.actions[5:])
    lost = robot.walk(directly(live), 10.0, lost=0.5, seed=1)
    assert lost.fell_at is not None or lost.velocity_error > 1.5 * base.velocity_error
    none = robot.walk(lambda observed, now: None, 10.0)
    assert none.fell_at is not None  # the measure can fail


@pytest.mark.parametrize(
    ("option", "words"), [(["--data", "/nowhere"], "no policy.npz"), (["--device", "cuda"], "device='cuda'")]
)
def test_what_is_missing_is_said(robot: Robot, option: list[str], words: str) -> None:
    if "cuda" in option and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    done = subprocess.run(
        [*PYTHON, ROOT / "examples/humanoid_policy/run.py", *option], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2 and words in done.stderr and len(done.stderr.splitlines()) == 1
