"""The plugin in sessions of its own: columns, reports, options, limits of another machine."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from rtaccel.measure.device_budgets import yardstick_us
from tests.measure.plugin.plugin_sessions import SUITE, session, verdicts


def test_columns_report_junit_and_json_hold_the_same_figures(tmp_path: Path) -> None:
    pytest.importorskip("pytest_benchmark")
    suite = """
import pytest

@pytest.mark.budget(p99_us=1e9, max_error=0.5, min_metric=0.9)
def test_both(latency):
    latency(abs, -3, error=lambda y: y - 3, metric=lambda y: 0.95)

@pytest.mark.budget(p99_us=1e9, min_metric=0.9)
def test_metric(latency):
    latency(abs, -3, metric=0.8)
"""
    files = {key: tmp_path / key for key in ("report.html", "junit.xml", "out.json")}
    code, output = session(
        tmp_path, suite, f"--budget-report={files['report.html']}", f"--junit-xml={files['junit.xml']}",
        f"--benchmark-json={files['out.json']}",
    )  # fmt: skip
    assert code == 1, output
    assert verdicts(output) == {"test_both": "PASS", "test_metric": "FAIL"}
    assert re.search(r"calls +p50 us +p99 us +p99.9 us +max us +verdict", output)
    assert "min_metric: 0.8 < 0.9" in output
    assert "report: report.html" in output
    page = files["report.html"].read_text()
    assert all(word in page for word in ("test_both", "test_metric", "--budget-report=", "python -m pytest"))
    junit = ElementTree.parse(files["junit.xml"]).getroot()
    found = {b["name"]: b for b in json.loads(files["out.json"].read_text())["benchmarks"]}
    for case in junit.iter("testcase"):
        properties = {p.get("name"): p.get("value") for p in case.iter("property")}
        extra, stats = found[case.get("name")]["extra_info"], found[case.get("name")]["stats"]
        assert properties["verdict"] == extra["verdict"]
        assert float(properties["p99_us"]) == extra["p99_us"]
        assert int(properties["n"]) == extra["n"] == stats["rounds"]
        assert stats["median"] * 1e6 == pytest.approx(extra["p50_us"], abs=0.02)
        assert stats["min"] * 1e6 <= extra["p50_us"] <= extra["p999_us"] <= stats["max"] * 1e6 * 1.0001


def test_saving_and_comparing_of_pytest_benchmark_still_work(tmp_path: Path) -> None:
    pytest.importorskip("pytest_benchmark")
    suite = "def test_it(latency):\n    latency(sorted, [3, 1, 2])\n"
    storage = f"--benchmark-storage=file://{tmp_path / 'store'}"
    code, output = session(tmp_path, suite, storage, "--benchmark-save=one")
    assert code == 0, output
    saved = [*(tmp_path / "store").rglob("*_one.json")]
    assert len(saved) == 1
    code, output = session(
        tmp_path, suite, storage, "--benchmark-compare=0001", "--benchmark-compare-fail=median:10000%"
    )
    assert code == 0, output
    assert "(0001_one)" in output.replace("...", "")


def test_reports_that_cannot_be_written_are_usage_errors(tmp_path: Path) -> None:
    code, output = session(tmp_path, SUITE, f"--budget-report={tmp_path}/nowhere/report.html")
    assert code == 4, output
    assert "its folder does not exist" in output
    assert "Traceback" not in output
    code, output = session(tmp_path, "def test_it(): pass\n", f"--budget-report={tmp_path}/report.html")
    assert code == 0, output
    assert not (tmp_path / "report.html").exists()


def test_options_of_the_fixture(tmp_path: Path) -> None:
    suite = """
import pytest, torch
from rtaccel.core.errors import BackendUnavailable, FormatError

def test_modes(latency):
    found = latency(abs, -3, period_us=20, samples=50)
    assert found.n == 50 and "open loop" in found.mode

def test_setup(latency):
    seen = []
    latency(seen.append, setup=lambda: (len(seen),), samples=50)
    assert seen == list(range(len(seen))) and len(seen) > 50

@pytest.mark.budget(p99_us=1e9)
def test_witness(latency):
    found = latency(sorted, list(range(100)), witness=True)
    assert found.witness.misses[0].raw == 0

@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("mode", ["stream", "graph", "persistent"])
def test_gpu(latency, mode):
    with pytest.raises(BackendUnavailable, match="torch is built"):
        latency(abs, -3, mode=mode)

def test_refused(latency):
    with pytest.raises(FormatError, match="period_us"):
        latency(abs, -3, period_us=0)
    with pytest.raises(FormatError, match="setup with mode"):
        latency(abs, -3, mode="graph", setup=list)
    with pytest.raises(TypeError, match="hot"):
        latency(abs, -3, hot=True)

def test_raises(latency):
    latency(lambda: 1 / 0)
"""
    code, output = session(tmp_path, suite)
    assert code == 1, output
    assert re.search(r"\b1 failed, ", output)
    assert "ZeroDivisionError" in output


def test_a_budget_for_another_machine_is_scaled_and_says_so(tmp_path: Path) -> None:
    budgets = tmp_path / "budgets.toml"
    suite = "def test_tone(latency):\n    found = latency(abs, -3)\n    print(found.notes, found.budget.p99_us)\n"
    here = yardstick_us()
    text = f'[device."Unheard-of 3000"]\nyardstick_us = {here / 2}\n[device."Unheard-of 3000".budget.test_tone]\np99_us = 1e6\n'
    budgets.write_text(text)
    code, output = session(tmp_path, suite, "-s", "-p", "no:benchmark", "--budgets", str(budgets))
    assert code == 0, output
    assert output.count("limits are those of Unheard-of 3000") == 2  # in the result and above the table
    budgets.write_text(text.replace("yardstick_us", "#"))
    code, output = session(tmp_path, suite, "--budgets", str(budgets))
    assert code == 4, output
    assert "for Unheard-of 3000; this is" in output
    assert "Traceback" not in output
