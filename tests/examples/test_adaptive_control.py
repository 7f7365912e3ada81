"""The plant's physics, the table's thresholds, bounds under broken sensors, and the same flight twice."""

from __future__ import annotations

import ctypes
import json
import math
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from examples._shared.outcome import Missing
from examples.adaptive_control import basis, control, cycles, plant
from examples.adaptive_control.flight import SETTLE, fly
from tests.support.processes.run import PYTHON

ROOT = Path(__file__).parents[2]


def test_falls_freely_and_hovers() -> None:
    body = plant.Quadrotor(vx=0.0, vz=0.0, thrust=0.0)
    for _ in range(100):
        body.step(0.0, 0.0, 0.0, 0.0)
    assert body.vz == pytest.approx(-9.81 * 0.1, rel=0.03)  # a little drag
    assert (body.x, body.tilt) == (0.0, 0.0)
    still = plant.Quadrotor(vx=0.0, vz=0.0)
    for _ in range(1000):
        still.step(plant.MASS * plant.GRAVITY, 0.0, 0.0, 0.0)
    np.testing.assert_allclose([still.x, still.z, still.vx, still.vz, still.tilt], 0.0, atol=1e-12)


def test_wind_takes_it_along_up_to_its_own_speed() -> None:
    body = plant.Quadrotor(vx=0.0, vz=0.0)
    speeds = []
    for _ in range(60_000):
        body.step(plant.MASS * plant.GRAVITY, 0.0, 5.0, 0.0)
        speeds.append(body.vx)
    assert (np.diff(speeds) > 0).all()
    assert 4 < speeds[-1] < 5


def test_reference_is_its_own_derivative() -> None:
    wanted = plant.reference(20_000)
    for k in range(3):
        slope = np.gradient(wanted[:, 2 * k : 2 * k + 2], plant.DT, axis=0)[5:-5]
        np.testing.assert_allclose(slope, wanted[5:-5, 2 * k + 2 : 2 * k + 4], atol=1e-4)


def test_gusts_have_their_mean_and_deviation() -> None:
    x, z = plant.gusts(5.0, 200_000, seed=0)
    assert x.mean() == pytest.approx(5.0, rel=0.05)
    assert x.std() == pytest.approx(5.0 * plant.GUSTS, rel=0.25)
    assert abs(z.mean()) < 0.2


def test_compiled_basis_is_the_module() -> None:
    state = torch.randn(50, 4)
    torch.testing.assert_close(control.compiled()(state), control.Basis().eval()(state), rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def errors() -> dict[str, list[float]]:
    steps = SETTLE + 8000
    return {kind: [fly(kind, wind, steps).mean_cm for wind in (3.0, 5.0, 7.0)] for kind in control.KINDS}


def test_table(errors: dict[str, list[float]]) -> None:
    assert (np.array(errors["rls_l1"]) <= [0.80, 1.01, 1.53]).all()
    for kind in ("l1", "rls"):
        assert (np.array(errors["rls_l1"]) < 0.95 * np.array(errors[kind])).all()
    assert (5 * np.array(errors["l1"]) < errors["pid"]).all()
    assert (np.array(errors["pid"]) < 0.6 * np.array(errors["pd"])).all()


def test_the_same_flight_twice() -> None:
    one, two = (fly("rls_l1", 5.0, 3000, seed=3) for _ in range(2))
    np.testing.assert_array_equal(one.path, two.path)
    assert (fly("rls_l1", 5.0, 3000, seed=4).path != one.path).any()


@pytest.mark.parametrize("kind", control.KINDS)
def test_broken_accelerometer(kind: str) -> None:
    """NaN for 200 ms, then values out of range for 200 ms: estimates are bounded, and it still flies."""
    body, controller, before = plant.Quadrotor(), control.Controller(kind), None
    for i, want in enumerate(plant.reference(6000).tolist()):
        ax, az = body.ax, body.az
        if 2000 <= i < 2200:
            before = before or (controller.dx, controller.dz)
            ax = az = math.nan
        elif 2200 <= i < 2400:
            ax = az = 1e3
        commands = controller.step(body.x, body.z, body.vx, body.vz, body.tilt, body.rate, ax, az, want)
        assert np.isfinite(commands).all()
        assert max(abs(controller.dx), abs(controller.dz)) <= control.MOST
        if 2000 <= i < 2200 and kind not in ("pd", "pid"):
            assert (controller.dx, controller.dz) == before
        body.step(*commands, 3.0, 0.0)
    assert math.hypot(body.x - want[0], body.z - want[1]) < 1.0


def test_the_step_in_c_has_the_same_bits(tmp_path: Path) -> None:
    given, out = cycles.states(1500), np.zeros(2, np.float32)
    given[200:220, 6:8] = math.nan
    controller = control.Controller("rls_l1")
    try:
        with cycles.step_in_c(tmp_path) as step:
            for row in given:
                told = step.function(
                    ctypes.c_void_p(step.self_pointer), (ctypes.c_void_p * 1)(row.ctypes.data),
                    (ctypes.c_void_p * 1)(out.ctypes.data),
                )  # fmt: skip
                values = row.tolist()
                assert told == 0
                np.testing.assert_array_equal(out, np.float32(controller.step(*values[:8], values[8:])))
    except Missing as missing:
        pytest.skip(str(missing))


def test_cycles_of_the_loop() -> None:
    try:
        stats = cycles.in_loop(300)
    except Missing as missing:
        pytest.skip(str(missing))
    assert stats.cycles >= 300 and stats.fresh >= 300 and stats.state == "stopped"


def test_without_a_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(Missing, match="no C compiler"):
        cycles.built(tmp_path)


def test_learned_features_explain_the_flights_they_are_from() -> None:
    found = basis.learned(4000, 12, epochs=150)
    states, forces = basis.recorded(4.0, 4000, seed=basis.SEED + 2)
    for name, network in (("learned", found), ("random", control.Basis(12).eval())):
        with torch.no_grad():
            phi = network(states[1000:])
        left = forces[1000:] - phi @ torch.linalg.lstsq(phi, forces[1000:]).solution
        share = float(left.square().mean() / forces[1000:].square().mean())
        assert share < 0.2, (name, share)


def test_command(tmp_path: Path) -> None:
    command = [*PYTHON, "examples/adaptive_control/run.py", "--quick"]
    command += ["--json", str(tmp_path / "a.json"), "--html", str(tmp_path / "a.html")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode in (0, 1), done.stderr  # 1 where a busy machine was slow
    found = json.loads((tmp_path / "a.json").read_text())
    assert (np.array(found["metrics"]["position_error_cm"]["rls_l1"]) <= [0.80, 1.01, 1.53]).all()
    assert {"pd", "pid", "l1", "rls_l1"} <= found["metrics"]["position_error_cm"].keys()
    assert f"verdict: {found['verdict']}" in done.stdout
    assert (tmp_path / "a.html").read_text().count("<svg") == 6


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    command = [*PYTHON, "examples/adaptive_control/run.py", "--json", str(tmp_path / "none" / "a.json")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert "create it first" in done.stderr
