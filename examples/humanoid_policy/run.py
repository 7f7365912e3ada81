"""A humanoid walks: its policy in float32, int8 and int4 in MuJoCo, in a real-time loop, and with actions that come late."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

import rtaccel as rt
from examples._shared import data
from examples._shared.outcome import Limit, Missing, Outcome, main
from examples._shared.timing import p99_us, per_call_us
from examples.humanoid_policy.policy import JOINTS, OBSERVED, SCHEMES, policy, recorded, streamed
from examples.humanoid_policy.walk import InLoop, Robot, Walk, directly, from_artefact
from rtaccel.measure.rendering.line_chart import Chart, Curve
from rtaccel.measure.rendering.page import chart_section

SOURCE = (
    "https://github.com/unitreerobotics/unitree_rl_gym has the G1 under deploy and resources; take what README.md names"
)
LIMITS = {"float32": 0.05, "W8A8": 0.05, "W4A8": 0.07}
"""Of the velocity error in m/s."""

DELAYS_MS, LOST = (0, 4, 10, 20, 30, 40), (0.0, 0.1, 0.2, 0.3, 0.5)


def work(args: argparse.Namespace) -> Outcome:
    folder = data.folder(args.data, "robot_g1", ("policy.npz",), SOURCE)
    robot = Robot(folder)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return on_gpu(folder, robot) if args.device == "cuda" else judged(folder, robot, args.quick)
    finally:
        torch.set_num_threads(threads)


def same(a: Walk, b: Walk) -> bool:
    """Every action to the bit."""
    return a.actions.shape == b.actions.shape and bool((a.actions == b.actions).all())


def sweep(robot: Robot, live: rt.StreamModel, seconds: float) -> tuple[list[Walk], list[Walk]]:
    """Walks by the delay of an action, and by the share of lost observations."""
    late = [robot.walk(directly(live), seconds, delay_ms=ms) for ms in DELAYS_MS]
    lost = [robot.walk(directly(live), seconds, lost=share, seed=1) for share in LOST]
    return late, lost


def judged(folder: Path, robot: Robot, quick: bool) -> Outcome:
    lives = {scheme: streamed(folder, scheme) for scheme in SCHEMES}
    walks = {scheme: robot.walk(directly(live), 20.0) for scheme, live in lives.items()}
    us = {scheme: step_us(live, quick) for scheme, live in lives.items()}
    rows = [("20 s at 0.5 m/s", "fell", "velocity error, m/s", "distance, m", "us a step", "weights, B")]
    rows += [
        (s, fell(w), f"{w.velocity_error:.4f}", f"{w.distance:.2f}", f"{us[s]:.2f}", f"{lives[s].weight_bytes:,}")
        for s, w in walks.items()
    ]
    repeated = 0
    with tempfile.TemporaryDirectory() as place:
        for scheme in LIMITS:
            with InLoop(lives[scheme]) as act:
                in_loop = robot.walk(act, 20.0)
            loaded = robot.walk(from_artefact(lives[scheme], Path(place) / "walk.rta"), 20.0)
            repeated += same(in_loop, walks[scheme]) + same(loaded, walks[scheme])
    rows.append(("the same to the bit in rt.Loop, and saved and loaded", "", "", f"{repeated} of 6", "", ""))
    clock, notes = by_the_clock(robot, lives["W8A8"], 5.0 if quick else 15.0)
    late, lost = sweep(robot, lives["float32"], 10.0 if quick else 20.0)
    rows += [
        (f"float32, actions {ms} ms late", fell(w), error(w), f"{w.distance:.2f}", "", "")
        for ms, w in zip(DELAYS_MS, late)
    ]
    rows += [
        (f"float32, {s:.0%} of the observations lost", fell(w), error(w), f"{w.distance:.2f}", "", "")
        for s, w in zip(LOST, lost)
    ]
    up = [ms for ms, w in zip(DELAYS_MS, late) if w.fell_at is None]
    notes += [
        f"A step takes {us['W8A8']:.1f} us of the 20,000 us between two. The robot stays up with actions up to "
        f"{max(up, default=0)} ms late: at 50 Hz latency hardly matters, and a faster engine does not make it walk better.",
        "Walking is chaotic: the same scheme with other bits, of another CPU, gives another path and another error.",
    ]
    metrics: dict[str, Any] = {
        "velocity_error": {s: finite(w) for s, w in walks.items()},
        "fell_at_s": {s: w.fell_at for s, w in walks.items()},
        "distance_m": {s: w.distance for s, w in walks.items()}, "step_us": us, "same_bits": repeated,
        "p99_us": p99_us(bound(lives["W8A8"])),
        "late_ms": {str(ms): finite(w) for ms, w in zip(DELAYS_MS, late)},
        "lost": {str(s): finite(w) for s, w in zip(LOST, lost)},
        "weights_bytes": {s: live.weight_bytes for s, live in lives.items()}, **clock,
    }  # fmt: skip
    limits = [Limit(f"velocity error, {s}, m/s", walks[s].velocity_error, most) for s, most in LIMITS.items()]
    limits += [
        Limit("falls of float32, W8A8, W4A8 in 20 s", sum(walks[s].fell_at is not None for s in LIMITS), 0),
        Limit("runs in rt.Loop and from a file that are the same", repeated, 6, at_least=True),
        Limit("a step, us", us["W8A8"], 100),
    ]
    return Outcome(
        "humanoid_policy",
        "A humanoid walks",
        "Unitree's policy for the G1, an LSTM of 64 and two linear layers, in MuJoCo: 500 steps of physics a second, 50 of it.",
        rows, metrics, limits, notes, [_plots(walks, late, lost)],
    )  # fmt: skip


def fell(walk: Walk) -> str:
    return "no" if walk.fell_at is None else f"at {walk.fell_at:.1f} s"


def finite(walk: Walk) -> float | None:
    return walk.velocity_error if np.isfinite(walk.velocity_error) and walk.fell_at is None else None


def error(walk: Walk) -> str:
    return f"{walk.velocity_error:.4f}" if finite(walk) is not None else "-"


def step_us(live: rt.StreamModel, quick: bool) -> float:
    return per_call_us(bound(live), 500, 5 if quick else 20)[0]


def bound(live: rt.StreamModel) -> Callable[[], None]:
    return live.bind(torch.zeros(1, OBSERVED), out=torch.empty(1, JOINTS))


def by_the_clock(robot: Robot, live: rt.StreamModel, seconds: float) -> tuple[dict[str, Any], list[str]]:
    """A walk in real time: the world puts an observation every 20 ms, the loop steps every 20 ms on what is newest."""
    with InLoop(live, real_time=True) as act:
        walk = robot.walk(act, seconds)
        stats = act.loop.stats()
    found = {"clock_fell": int(walk.fell_at is not None), "clock_cycles": stats.cycles, "clock_late": stats.misses,
             "clock_stale": stats.stale}  # fmt: skip
    said = (
        f"{seconds:g} s by the clock in rt.Loop, W8A8: fell {fell(walk)}, {stats.cycles} cycles, {stats.misses} later than 2 ms, "
        f"{stats.stale} on an observation older than 60 ms. The world is a Python thread here, so both depend on what else runs."
    )
    return found, [said]


def on_gpu(folder: Path, robot: Robot) -> Outcome:
    """W8A8 in a persistent kernel."""
    if not torch.cuda.is_available():
        raise Missing("--device cuda: torch sees no GPU here; leave it out.")
    observed, _ = recorded(folder)
    windows = observed.view(10, 100, OBSERVED).transpose(0, 1).contiguous()
    live = rt.stream(policy(folder), observed[:1], SCHEMES["W8A8"], calibration=[windows], device="cuda")
    try:
        done = robot.walk(directly(live), 20.0)
        us = step_us(live, quick=True)
    finally:
        live.close()
    rows = [
        ("20 s at 0.5 m/s", "fell", "velocity error, m/s", "us a step"),
        ("W8A8 on the GPU", fell(done), error(done), f"{us:.2f}"),
    ]
    limits = [Limit("falls in 20 s", int(done.fell_at is not None), 0)]
    return Outcome("humanoid_policy", "A humanoid walks", "The policy in a persistent kernel on a GPU.", rows,
                   {"velocity_error": {"W8A8": finite(done)}, "step_us": {"W8A8": us}}, limits)  # fmt: skip


def _plots(walks: dict[str, Walk], late: list[Walk], lost: list[Walk]) -> str:
    shown = {s: walks[s] for s in LIMITS}

    def seconds(walk: Walk) -> Any:
        return (np.arange(len(walk.velocity)) + 1) / 50

    def errors(found: list[Walk], at: Any) -> Curve:
        stood = [(x, w.velocity_error) for x, w in zip(at, found) if finite(w) is not None]
        x, y = np.array(stood, float).reshape(-1, 2).T
        return Curve("stayed up", x, y)

    return chart_section(
        "How it walks",
        [
            Chart("forward velocity", [Curve(s, seconds(w), w.velocity, shade=3 * i) for i, (s, w) in enumerate(shown.items())],
                  limits={"commanded": 0.5}, x_title="seconds", y_title="m/s", from_zero=True),
            Chart("actions that come late, float32", [errors(late, DELAYS_MS)], x_title="ms from the measurement to the torque",
                  y_title="velocity error, m/s", from_zero=True),
            Chart("observations that are lost, float32", [errors(lost, [100 * s for s in LOST])], x_title="% lost",
                  y_title="velocity error, m/s", from_zero=True),
        ],
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main("humanoid_policy", __doc__ or "", work, with_data=True))
