"""Features against plain formulas, scores, and on the engines: float32, int8 and another fleet with real thresholds."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

import rtaccel as rt
from examples.remaining_life import chosen, engines, shifted, train
from tests.support.processes.run import PYTHON

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder() -> Path:
    found = Path(os.environ.get("RTACCEL_TEST_DATA", "/nowhere")) / "cmapss_fd001"
    if not found.exists():
        pytest.skip(f"no {found}: set RTACCEL_TEST_DATA")
    return found


@pytest.fixture(scope="module")
def fleet(folder: Path) -> engines.Fleet:
    return engines.read(folder)


def test_features_are_the_formulas() -> None:
    x = np.random.default_rng(0).normal(500, 3, size=(60, 14)).astype(np.float32)

    def ewma(rate: float) -> np.ndarray:
        level = np.zeros(14)
        for t, row in enumerate(x.astype(np.float64)):
            level += max(rate, 1 / (t + 1)) * (row - level)
        return level

    wanted = [ewma(0.2), ewma(0.1), ewma(0.05), ewma(0.1) - ewma(0.02), ewma(0.05) - x[:10].mean(0), x.mean(0)]
    got = engines.features(x)
    assert got.shape == (60, 86)
    np.testing.assert_allclose(got[-1, :84], np.concatenate(wanted), rtol=1e-5, atol=2e-3)
    np.testing.assert_allclose(got[-1, 84:], [60 / 200, np.log1p(60) / 5], rtol=1e-5)


def test_scores() -> None:
    truth = np.array([10, 200, 50], np.float32)
    predicted = np.array([20, 125, 37], np.float32)  # 10 late, right as capped, 13 early
    assert engines.phm_score(predicted, truth) == pytest.approx(2 * (np.e - 1), rel=1e-6)
    assert engines.rmse(predicted, truth) == pytest.approx(np.sqrt((100 + 169) / 3), rel=1e-6)
    np.testing.assert_allclose(engines.targets(200)[[0, 74, 199]] * 125, [125, 125, 0])


def test_nasas_own_files_read_the_same(folder: Path, fleet: engines.Fleet, tmp_path: Path) -> None:
    for name in ("train_FD001", "test_FD001"):
        rows = (folder / f"{name}.csv").read_text().splitlines()[1:400]
        (tmp_path / f"{name}.txt").write_text("\n".join(row.replace(",", " ") + "  " for row in rows))
    (tmp_path / "RUL_FD001.txt").write_text((folder / "RUL_FD001.txt").read_text())
    np.testing.assert_array_equal(engines.read(tmp_path).train[0], fleet.train[0])


def test_network_and_its_int8_form(fleet: engines.Fleet) -> None:
    x, y = train.samples(fleet.train)
    network = train.train(x, y, seed=2, epochs=12)
    last = np.stack([engines.features(engine)[-1] for engine in fleet.test])
    inputs = torch.from_numpy(last)
    int8 = rt.compile(network, (inputs[:1],), "w8a8", calibration=train.calibration(x))
    with torch.no_grad():
        exact = network(inputs)[:, 0].numpy() * engines.CAP
    quantized = int8(inputs)[:, 0].numpy() * engines.CAP
    assert engines.rmse(exact, fleet.remaining) <= 10.6
    assert engines.phm_score(exact, fleet.remaining) <= 200
    assert abs(engines.rmse(quantized, fleet.remaining) - engines.rmse(exact, fleet.remaining)) <= 0.15


def test_training_is_deterministic(fleet: engines.Fleet) -> None:
    x, y = train.samples(fleet.train[:10])
    one, two = (train.train(x, y, seed=5, epochs=1) for _ in range(2))
    for a, b in zip(one.parameters(), two.parameters()):
        assert torch.equal(a, b)


def test_the_plan_is_judged_by_engines_left_out(fleet: engines.Fleet) -> None:
    found = chosen.choose(fleet.train[:60], epochs=6, seconds=30)
    assert found.scheme is not None and found.drop is not None and found.drop <= chosen.MAX_DROP
    x, y = train.samples(fleet.train[42:60])
    network = train.train(*train.samples(fleet.train[:42]), seed=0, epochs=6)
    fast = rt.compile(network, (torch.from_numpy(x[:1]),), found.scheme, calibration=train.calibration(x))
    with torch.no_grad():
        errors = [
            float((m(torch.from_numpy(x))[:, 0] - torch.from_numpy(y)).square().mean().sqrt()) for m in (network, fast)
        ]
    assert (errors[1] - errors[0]) * engines.CAP <= chosen.MAX_DROP + 0.05  # other calibration data
    assert not any("w8a8" in name for name in found.refused)


def test_another_fleet(fleet: engines.Fleet) -> None:
    found = shifted.run(fleet.train, epochs=8)
    assert found.rmse[0] == pytest.approx(found.model, rel=1e-3)  # nothing was learned, so the network is served
    assert found.rmse[0] > 25
    assert found.rmse[-1] <= min(0.5 * found.rmse[0], 16)
    assert len(found.rmse) == 21


@pytest.mark.turns(3)
def test_command(folder: Path, tmp_path: Path) -> None:
    command = [*PYTHON, "examples/remaining_life/run.py", "--quick"]
    command += ["--json", str(tmp_path / "a.json"), "--html", str(tmp_path / "a.html")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode in (0, 1), done.stderr  # 1 where a busy machine was slow
    found = json.loads((tmp_path / "a.json").read_text())
    assert found["metrics"]["rmse_mean"] <= 10.2
    assert found["metrics"]["rmse_int8_mean"] <= found["metrics"]["rmse_mean"] + 0.15
    assert found["metrics"]["phm_score_max"] <= 160
    assert found["metrics"]["rmse_chosen_mean"] <= found["metrics"]["rmse_mean"] + 0.2
    assert found["metrics"]["rmse_shifted_after"] <= 22
    assert f"verdict: {found['verdict']}" in done.stdout
    assert (tmp_path / "a.html").read_text().count("<svg") == 6


def test_without_data(tmp_path: Path) -> None:
    environment = os.environ | {"RTACCEL_TEST_DATA": str(tmp_path)}
    command = [*PYTHON, "examples/remaining_life/run.py"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert "--data FOLDER" in done.stderr
    assert len(done.stderr.splitlines()) == 1
