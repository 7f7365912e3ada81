"""The detector on NAB with thresholds that did not see the series; ten thousand streams; and what is missing."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from examples.anomaly_stream import detectors, many, nab
from rtaccel.online import Records
from tests.support.processes.run import PYTHON

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def series() -> list[nab.Series]:
    folder = Path(os.environ.get("RTACCEL_TEST_DATA", "/nowhere")) / "nab"
    if not folder.exists():
        pytest.skip(f"no {folder}: set RTACCEL_TEST_DATA")
    return nab.read(folder)


def generated(count: int = 4) -> list[nab.Series]:
    """Days with noise, of which each has one hour that is off; in two folders."""
    rng, found = np.random.default_rng(0), []
    for i in range(count):
        seconds = 1.4e9 + 300.0 * np.arange(4000)
        values = np.sin(seconds / 86400 * 2 * np.pi) + 0.1 * rng.normal(size=4000)
        at = int(rng.integers(2000, 3500))
        values[at : at + 12] += 5
        found.append(nab.Series(f"folder{i % 2}/{i}.csv", seconds, values, [(at - 50, at + 50)]))
    return found


def test_score_with_thresholds_of_other_folders(series: list[nab.Series]) -> None:
    scored = detectors.score_all(series, detectors.SETTINGS, detectors.records_alerts)
    windows = sum(len(one.windows) for one in series)
    assert nab.standard_score(scored.by(detectors.CHOSEN).tolist(), windows) >= 68


def test_alerts_by_rule_are_the_alerts_of_the_detector(series: list[nab.Series]) -> None:
    one = series[0]
    for setting in ((0.005, 1200, 8000), (0.02, 400, 2000)):
        scores = Records(*setting).score_series(one.values, one.seconds)
        np.testing.assert_array_equal(detectors.records_alerts(one)(setting), np.flatnonzero(scores >= 1))


def test_a_folder_is_not_chosen_by_itself() -> None:
    settings = [(1.0,), (2.0,)]
    one, two = (s._replace(name=name) for s, name in zip(generated(2), ("a/1.csv", "b/1.csv")))
    scored = detectors.Scored([one, two], settings, np.array([[1.0, 0.0], [0.0, 5.0]]))
    assert scored.chosen() == {"a": (2.0,), "b": (1.0,)}
    np.testing.assert_array_equal(scored.by(scored.chosen()), [0.0, 0.0])


def test_finds_what_was_planted() -> None:
    found = generated()
    scored = detectors.score_all(found, detectors.SETTINGS, detectors.records_alerts)
    assert nab.standard_score(scored.by(scored.chosen()).tolist(), len(found)) >= 80


def test_published_scores_are_nabs(series: list[nab.Series]) -> None:
    folder = Path(os.environ["RTACCEL_TEST_DATA"]) / "nab"
    found = nab.published(folder, [one.name for one in series])
    assert sum(found["null"]) == -sum(len(one.windows) for one in series)
    assert sum(found["numenta"]) > sum(found["knncad"]) > sum(found["windowedGaussian"])


def test_streams_score_as_alone_and_miss_nothing() -> None:
    found = many.run(generated(), 400, 120)
    assert found.different == 0
    assert found.bytes_per_stream <= 2048
    assert 200 < found.missing < 800  # 1 in 100 of 48,000


def test_half_space_trees_are_deterministic() -> None:
    pytest.importorskip("river", reason="river is not here: pip install 'rtaccel[demo]'")
    values = generated(1)[0].values[:600]
    first = detectors.tree_scores(values)
    np.testing.assert_array_equal(first, detectors.tree_scores(values))
    assert (first[300:] > 0).all()


def test_command(tmp_path: Path, series: list[nab.Series]) -> None:
    command = [*PYTHON, "examples/anomaly_stream/run.py", "--quick"]
    command += ["--json", str(tmp_path / "a.json"), "--html", str(tmp_path / "a.html")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode in (0, 1), done.stderr  # 1 where a busy machine made calls slow
    found = json.loads((tmp_path / "a.json").read_text())
    assert found["example"] == "anomaly_stream"
    assert found["metrics"]["nab_standard"] >= 68
    assert f"verdict: {found['verdict']}" in done.stdout
    page = (tmp_path / "a.html").read_text()
    assert page.count("<svg") == 12  # six series, each for wide and narrow pages
    assert "http" not in page.replace("http://www.w3.org", "")


def test_without_data(tmp_path: Path) -> None:
    for extra in ([], ["--data", str(tmp_path)]):
        command = [*PYTHON, "examples/anomaly_stream/run.py", "--json", str(tmp_path / "a.json"), *extra]
        environment = os.environ | {"RTACCEL_TEST_DATA": str(tmp_path / "none")}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 2
        assert "--data FOLDER" in done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert json.loads((tmp_path / "a.json").read_text())["verdict"] == "SKIPPED"
