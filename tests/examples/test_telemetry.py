"""Errors against the window, thresholds against a loop, what was planted, and on the channels real thresholds for each."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

import rtaccel as rt
from examples._shared.outcome import Missing
from examples.telemetry import alarms, channels, models, run, together
from rtaccel.cli._demo.auroc import auroc
from tests.support.processes.run import PYTHON

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folder() -> Path:
    found = Path(os.environ.get("RTACCEL_TEST_DATA", "/nowhere")) / "smap_msl"
    if not found.exists():
        pytest.skip(f"no {found}: set RTACCEL_TEST_DATA")
    return found


def planted(seed: int) -> channels.Channel:
    """A wave that follows its command, and for a while does not."""
    rng = np.random.default_rng(seed)
    table = np.zeros((2200, channels.WIDTH), np.float32)
    table[:, 0] = np.sin(np.arange(2200) / 7 + seed) * 0.8 + 0.02 * rng.normal(size=2200)
    test = table[1200:].copy()
    test[500:560, 0] = rng.uniform(-1, 1, 60)
    return channels.Channel(f"c{seed}", table[:1200], test, [(500, 559)])


def test_finds_what_was_planted() -> None:
    found = [planted(seed) for seed in range(3)]
    forecaster = models.forecaster(found, epochs=20)
    live = rt.stream(forecaster, torch.zeros(3, channels.WIDTH))
    trains, tests = (
        [run.smoothed(e) for e in together.forecasts(live, p)] for p in zip(*[(c.train, c.test) for c in found])
    )
    for train, test, channel in zip(trains, tests, found):
        assert auroc(test, channel.truth) >= 0.95
        told = alarms.events(train, test, channel)
        assert (told.found, told.labeled) == (1, 1) and told.false_alarms <= 1


def test_forecasts_in_one_call_are_those_of_the_window() -> None:
    torch.manual_seed(0)
    model = models.Forecaster().eval()
    series = [planted(seed).test[:n] for seed, n in ((0, 90), (1, 40), (2, 65))]  # two end before the third
    errors = together.forecasts(rt.stream(model, torch.zeros(3, channels.WIDTH)), series)
    for one, error in zip(series, errors):
        with torch.no_grad():
            said = model(torch.from_numpy(one)[None])[0, :, 0].numpy()
        assert error.shape == (len(one),) and error[0] == 0
        np.testing.assert_allclose(error[1:], np.abs(one[1:, 0] - said[:-1]), atol=1e-5)


def test_threshold_stands_still_in_an_alarm_and_learns_a_new_level() -> None:
    rng = np.random.default_rng(0)
    threshold = alarms.Threshold(2, patience=50)
    for _ in range(2000):
        threshold.step(np.abs(rng.normal(0.1, 0.01, 2)), learn=True)
    before = threshold.level.copy()
    assert ((before > 0.12) & (before < 0.2)).all()
    told = np.array([threshold.step(np.array([0.1, 1.0])) for _ in range(50)])
    assert not told[:, 0].any() and told[:, 1].all()
    assert threshold.level[1] == before[1]
    told = np.array([threshold.step(np.array([0.1, 1.0])) for _ in range(3000)])
    assert not told[-1].any() and threshold.level[1] > 1


def test_smoothing_is_the_formula() -> None:
    x = np.random.default_rng(0).random((40, 2))
    level = np.zeros(2)
    for t, row in enumerate(x):
        level += max(0.02, 1 / (t + 1)) * (row - level)
    np.testing.assert_allclose(channels.smoothed(x)[-1], level)


def test_windows_end_at_their_row() -> None:
    made = models.windows(np.arange(50, dtype=np.float32))
    assert made.shape == (50, models.SPAN)
    np.testing.assert_array_equal(made[:, -1], np.arange(50))
    assert (made[3, : models.SPAN - 3] == 0).all() and made[40, 0] == 11


def test_statistics_are_a_mahalanobis_distance() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=600).astype(np.float32)
    unusual = models.Unusual().eval()
    mean, inverse = unusual.seen(values)
    x = models.windows(values)[100:140]
    fast = rt.compile(unusual, (x[:1], mean, inverse))
    assert fast.native[0] == fast.native[1]
    got = together.distances(fast, (mean, inverse), values)[100:140]
    w = x.double().numpy()
    table = np.stack(
        [w.mean(1), np.log(w.std(1) + 0.01), np.log(np.abs(np.diff(w, axis=1)).mean(1) + 0.01), w.min(1), w.max(1)], 1
    )  # fmt: skip
    off = table - mean.numpy()
    np.testing.assert_allclose(got, (off @ inverse[0].double().numpy() * off).sum(1), rtol=1e-3)


def test_a_channel_that_stands_still_is_unusual_and_easy_to_forecast() -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(size=3000).astype(np.float32) * 0.3
    values[2000:2200] = 0
    unusual = models.Unusual().eval()
    seen = unusual.seen(values[:1000])
    fast = rt.compile(unusual, (models.windows(values[:1]), *seen))
    scores = run.smoothed(together.distances(fast, seen, values[1000:]))
    truth = np.zeros(2000, bool)
    truth[1000:1200] = True
    assert auroc(scores, truth) >= 0.9
    assert auroc(run.smoothed(np.abs(values[1000:]).astype(np.float64)), truth) < 0.3


def test_joined_scores_are_sums_over_their_size_in_training() -> None:
    rng = np.random.default_rng(2)
    pairs = [(rng.random(500) * k, rng.random(200) * k) for k in (1, 1000)]
    train, test = alarms.joined(*pairs)
    assert len(train) == 500 and len(test) == 200
    sizes = [np.quantile(a[50:], 0.99) + 1e-3 for a, _ in pairs]
    np.testing.assert_allclose(test, pairs[0][1] / sizes[0] + pairs[1][1] / sizes[1])


def test_drift_is_seen_where_river_is() -> None:
    pytest.importorskip("river", reason="river is not here: pip install 'rtaccel[demo]'")
    rng = np.random.default_rng(0)
    still, moved = rng.random(1500) * 0.1, rng.random(1500) * 0.1
    moved[800:] += 0.3
    found = alarms.drifts([still, moved])
    assert found is not None and not found[0] and any(800 <= row < 900 for row in found[1])


def test_a_file_of_another_form(tmp_path: Path) -> None:
    (tmp_path / "labels.json").write_text(json.dumps({"A": {"anomalies": [[1, 2]]}, "B": {"anomalies": []}}))
    assert channels.read(tmp_path) == []
    for bad in (np.zeros((300, 80)), np.zeros((10, 3)), np.full((300, 3), np.nan)):
        np.savez(tmp_path / "A.npz", train=bad, test=bad)
        with pytest.raises(Missing, match="channel A"):
            channels.read(tmp_path)


@pytest.mark.turns(3)
def test_command(folder: Path, tmp_path: Path) -> None:
    command = [*PYTHON, "examples/telemetry/run.py", "--quick"]
    command += ["--json", str(tmp_path / "a.json"), "--html", str(tmp_path / "a.html")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode in (0, 1), done.stderr  # 1 where a busy machine was slow
    told = json.loads((tmp_path / "a.json").read_text())
    for name, least in {"E-8": 0.75, "C-1": 0.8, "M-6": 0.95}.items():
        assert told["metrics"]["auroc_forecaster"][name] >= least
        assert told["metrics"]["auroc_forecaster_w8a8"][name] >= least - 0.03
        assert told["metrics"]["auroc_autoencoder"][name] >= least - 0.05
    for name, least in run.LEAST.items():
        assert told["metrics"]["auroc_forecaster_statistics"][name] >= least - 0.03
    assert told["metrics"]["auroc_mean"]["forecaster_statistics"] >= told["metrics"]["auroc_mean"]["transformer"]
    assert sum(told["metrics"]["found_forecaster"].values()) >= 2
    assert sum(told["metrics"]["found_forecaster_statistics"].values()) >= 5
    assert told["metrics"]["channel_difference"] < 1e-4 and told["metrics"]["channels_in_a_call"] == 64
    assert f"verdict: {told['verdict']}" in done.stdout
    assert (tmp_path / "a.html").read_text().count("<svg") == 8


def test_without_data(tmp_path: Path) -> None:
    environment = os.environ | {"RTACCEL_TEST_DATA": str(tmp_path)}
    command = [*PYTHON, "examples/telemetry/run.py", "--json", str(tmp_path / "a.json")]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert "--data FOLDER" in done.stderr and len(done.stderr.splitlines()) == 1
    assert json.loads((tmp_path / "a.json").read_text())["verdict"] == "SKIPPED"
