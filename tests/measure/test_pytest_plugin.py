"""The plugin, in sessions of its own: limits are either far above any clock or below one reading of it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from rtaccel.measure.budget import KEYS
from rtaccel.measure.device_budgets import yardstick_us

BRIEF = """
import pytest
import rtaccel.measure.latency as latency_module

@pytest.fixture(autouse=True)
def brief(monkeypatch):
    monkeypatch.setattr(latency_module, "MIN_SECONDS", 0.01)
"""

SUITE = """
import pytest

calls = []

def work(*args):
    calls.append(args)

@pytest.mark.budget(p99_us=1e9)
def test_within(latency):
    result = latency(work, 1, 2)
    assert set(calls) == {(1, 2)}
    assert result.verdict == "PASS"
    assert result.n >= 662

@pytest.mark.budget(p99_us=1e-6)
def test_over(latency):
    latency(work)

@pytest.mark.budget(p99_us=1e9, size_bytes=100)
def test_open(latency):
    latency(work)

def test_free(latency):
    assert latency(work).verdict is None
"""


def session(folder: Path, suite: str, *options: str) -> tuple[int, str]:
    (folder / "conftest.py").write_text(BRIEF)
    (folder / "test_suite.py").write_text(suite)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--rootdir", str(folder), *options, "."]
    alone = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}  # no worker of xdist
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, env=alone)
    return done.returncode, done.stdout + done.stderr


def verdicts(output: str) -> dict[str, str]:
    table = output.split("latency budgets", 1)[1]
    return dict(
        re.findall(r"^(\S*[^:\s]) +[\d,]+ .*?(PASS|FAIL|UNDECIDED|NOT TIMED|no budget|not timed)$", table, re.MULTILINE)
    )


def test_verdicts_with_pytest_benchmark(tmp_path: Path) -> None:
    pytest.importorskip("pytest_benchmark")
    code, output = session(tmp_path, SUITE, f"--benchmark-json={tmp_path / 'out.json'}")
    assert code == 1, output
    assert "1 failed, 2 passed" in output
    assert "1 undecided" in output
    assert verdicts(output) == {
        "test_within": "PASS",
        "test_over": "FAIL",
        "test_open": "UNDECIDED",
        "test_free": "no budget",
    }
    assert re.search(r"budget FAIL: p99_us: ([\d,]+) of \1 calls took longer", output)
    assert "size_bytes: not known: pass size_bytes=" in output
    found = {b["name"]: b for b in json.loads((tmp_path / "out.json").read_text())["benchmarks"]}
    for name, verdict in (
        ("test_within", "PASS"),
        ("test_over", "FAIL"),
        ("test_open", "UNDECIDED"),
        ("test_free", None),
    ):
        extra, stats = found[name]["extra_info"], found[name]["stats"]
        assert extra["verdict"] == verdict
        assert extra["n"] == stats["rounds"]
        assert stats["iterations"] == 1
        assert extra["max_us"] == pytest.approx(stats["max"] * 1e6, abs=1e-3)
        assert 0 < extra["p50_us"] <= extra["p99_us"] <= extra["p999_us"] <= extra["max_us"]


def test_verdicts_without_pytest_benchmark(tmp_path: Path) -> None:
    code, output = session(tmp_path, SUITE, "-p", "no:benchmark", "-v")
    assert code == 1, output
    assert verdicts(output) == {
        "test_within": "PASS",
        "test_over": "FAIL",
        "test_open": "UNDECIDED",
        "test_free": "no budget",
    }
    assert re.search(r"test_open UNDECIDED", output)


def test_strict_makes_undecided_a_failure(tmp_path: Path) -> None:
    code, output = session(tmp_path, SUITE, "--budget-strict", "-k", "open or within")
    assert code == 1, output
    assert "1 failed, 1 passed" in output
    assert "budget UNDECIDED" in output


def test_disabled_benchmarks_run_once_and_judge_no_time(tmp_path: Path) -> None:
    pytest.importorskip("pytest_benchmark")
    suite = """
import pytest
calls = []

@pytest.mark.budget(p99_us=1e-6)
def test_once(latency):
    assert latency(calls.append, 1).n == 1
    assert calls == [1]

@pytest.mark.budget(p99_us=1e9, size_bytes=100)
def test_size(latency):
    latency(len, [], size_bytes=101)

def test_broken(latency):
    latency(int, "x")
"""
    code, output = session(tmp_path, suite, "--benchmark-disable")
    assert code == 1, output
    assert re.search(r"2 failed.*1 not timed", output)
    assert verdicts(output) == {"test_once": "NOT TIMED", "test_size": "FAIL"}
    assert "1 budget was not timed: pytest-benchmark is disabled" in output
    assert "ValueError: invalid literal" in output


def test_a_row_of_the_budgets_file_replaces_the_marker(tmp_path: Path) -> None:
    budgets = tmp_path / "budgets.toml"
    budgets.write_text('[budget."named"]\np99_us = 1e-6\n[budget.test_marked]\np99_us = 1e9\n')
    suite = """
import pytest

def test_named(latency):
    latency(len, [], name="named")

@pytest.mark.budget(p99_us=1e-6)
def test_marked(latency):
    latency(len, [])
"""
    code, output = session(tmp_path, suite, "--budgets", str(budgets))
    assert code == 1, output
    assert verdicts(output) == {"named": "FAIL", "test_marked": "PASS"}
    code, output = session(tmp_path, suite, "--budgets", str(tmp_path / "missing.toml"))
    assert code == 4
    assert "missing.toml" in output
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("marker", "fixture", "says"),
    [
        ("p99_us=50, p95_us=40", "latency", ["p95_us", *KEYS]),
        ("p95_us=40", "latency", ["p95_us", *KEYS]),
        ("50", "latency", ["keywords only", *KEYS]),
        ("p99_us=0", "latency", ["p99_us=0"]),
        ("p99_us=-1", "latency", ["p99_us=-1", "positive"]),
        ("p99_us=10**5000", "latency", ["whole number of 16,610 bits", "positive"]),
        ("", "latency", list(KEYS)),
        ("p99_us=50", "tmp_path", ["fixture `latency`"]),
    ],
)
def test_a_marker_that_could_not_be_judged_is_an_error_of_its_test_alone(
    tmp_path: Path, marker: str, fixture: str, says: list[str]
) -> None:
    suite = f"import pytest\n@pytest.mark.budget({marker})\ndef test_it({fixture}):\n    pass\ndef test_other():\n    pass\n"
    code, output = session(tmp_path, suite)
    assert code == 1, output
    assert re.search(r"1 passed,( \d+ warnings?,)? 1 error", output)
    assert all(word in output for word in ["test_it", *says])
    assert "Traceback" not in output


def test_a_budget_that_nothing_was_measured_for_fails(tmp_path: Path) -> None:
    suite = """
import pytest

@pytest.mark.budget(p99_us=1e9)
def test_forgot(latency):
    pass

def test_twice(latency):
    latency(len, [])
    latency(len, [])

@pytest.mark.budget(p99_us=1e-6)
def test_own_assertion_first(latency):
    latency(len, [])
    assert 1 == 2

@pytest.mark.xfail(strict=True)
@pytest.mark.budget(p99_us=1e-6)
def test_known_to_be_slow(latency):
    latency(len, [])
"""
    code, output = session(tmp_path, suite, "-p", "no:benchmark")
    assert code == 1, output
    assert "3 failed, 1 xfailed" in output
    assert "never called latency()" in output
    assert "called twice in one test" in output
    assert "assert 1 == 2" in output


def test_sessions_that_do_not_use_it_are_left_alone(tmp_path: Path) -> None:
    suite = """
import pytest, sys

@pytest.mark.budget("gold", owner="someone else's marker")
def test_other_meaning():
    pass

def test_nothing_heavy_was_loaded():
    assert "rtaccel.measure.pytest_plugin" in sys.modules
    assert not {"torch", "numpy", "triton"} & set(sys.modules)
"""
    (tmp_path / "test_suite.py").write_text(suite)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), "--strict-markers", "."],
        cwd=tmp_path, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout
    assert "latency budgets" not in done.stdout


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


SIDE_BY_SIDE = """
import pytest

@pytest.mark.budget(p99_us=0.0001)
def test_never_met(latency):
    assert latency(sorted, [3, 1, 2]).verdict == "NOT TIMED"

@pytest.mark.budget(p99_us=0.0001, size_bytes=100)
def test_too_large(latency):
    latency(len, [], size_bytes=101)

@pytest.mark.budget(size_bytes=100)
def test_small(latency):
    assert latency(len, [], size_bytes=99).verdict == "PASS"

def test_free(latency):
    assert latency(len, []).verdict is None
"""


@pytest.mark.parametrize("without", [[], ["-p", "no:benchmark"]])
def test_side_by_side_a_latency_is_not_timed_and_says_so(tmp_path: Path, without: list[str]) -> None:
    """A limit that no call can meet used to pass under xdist, with one call and no clock."""
    pytest.importorskip("xdist")
    junit = tmp_path / "junit.xml"
    given = ["-n", "2", "-v", f"--junit-xml={junit}", *without]
    code, output = session(tmp_path, SIDE_BY_SIDE, *given)
    assert code == 1, output
    assert re.search(r"1 failed, 2 passed.*1 not timed", output), output
    assert verdicts(output) == {
        "test_never_met": "NOT TIMED", "test_too_large": "FAIL", "test_small": "PASS", "test_free": "not timed",
    }  # fmt: skip
    assert re.search(r"NOT TIMED.*test_never_met", output)
    assert "1 budget was not timed: tests run side by side under pytest-xdist" in output
    cases = {case.get("name"): case for case in ElementTree.parse(junit).getroot().iter("testcase")}
    properties = {p.get("name"): p.get("value") for p in cases["test_never_met"].iter("property")}
    assert properties["verdict"] == "NOT TIMED"
    assert "p99_us" not in properties
    code, output = session(tmp_path, SIDE_BY_SIDE, *given, "--budget-strict", "-k", "never or small or free")
    assert code == 1, output
    assert "1 failed, 2 passed" in output
    assert "budget NOT TIMED: p99_us: tests run side by side" in output


def test_strict_refuses_what_a_disabled_benchmark_did_not_time(tmp_path: Path) -> None:
    pytest.importorskip("pytest_benchmark")
    code, output = session(tmp_path, SIDE_BY_SIDE, "--benchmark-disable", "-k", "never")
    assert code == 0, output
    assert "1 not timed" in output
    code, output = session(tmp_path, SIDE_BY_SIDE, "--benchmark-disable", "--budget-strict", "-k", "never")
    assert code == 1, output
    assert "budget NOT TIMED" in output


ROWS = """
import pytest

def test_known(latency):
    latency(len, [], samples=50)

def test_named(latency):
    latency(len, [], name="by name", samples=50)

def test_without():
    pass
"""


RIGHT = ("test_known", "by name", "test_suite.py::test_known")
WRONG = ("test_konwn", "by nome", "test_without")
SAID = ('"test_konwn" (did you mean test_known', '"by nome" (did you mean by name', '"test_without"')


@pytest.mark.parametrize(
    ("rows", "options", "code", "says"),
    [
        (RIGHT, [], 0, ()),
        (RIGHT, ["-n", "2"], 0, ()),
        (WRONG, [], 4, ("belong to no test", *SAID)),
        (WRONG, ["-n", "2"], 4, ("belong to no test", *SAID)),
        (
            ("by nome", "test_named"),
            ["-k", "known"],
            0,
            ("no test took", '"by nome"', "because 2 tests were deselected"),
        ),
        (("by name",), ["-n", "2", "-k", "known"], 0, ("no test took", "deselected")),
        (("of another machine",), ["-p", "declares"], 0, ()),
    ],
)
def test_a_row_that_belongs_to_no_test_ends_the_run(
    tmp_path: Path, rows: tuple[str, ...], options: list[str], code: int, says: tuple[str, ...]
) -> None:
    budgets = tmp_path / "budgets.toml"
    budgets.write_text("".join(f'[budget."{row}"]\np50_us = 1e9\n' for row in rows))
    (tmp_path / "declares.py").write_text("def pytest_budget_names():\n    return ['of another machine']\n")
    ended, output = session(tmp_path, ROWS, "-p", "no:benchmark", "--budgets", str(budgets), *options)
    assert ended == code, output
    assert ("of the budgets file" in output) == bool(says), output
    assert all(word in output for word in says), output
    assert "Traceback" not in output


def test_a_row_of_a_test_that_did_not_come_to_its_call_may_be_right(tmp_path: Path) -> None:
    budgets = tmp_path / "budgets.toml"
    budgets.write_text('[budget."on the card"]\np50_us = 1e9\n[budget."test_forgets"]\np50_us = 1e9\n')
    suite = """
import pytest

@pytest.mark.skip(reason="no card")
def test_card(latency):
    latency(len, [], name="on the card")
"""
    ended, output = session(tmp_path, suite, "-p", "no:benchmark", "--budgets", str(budgets))
    assert ended == 0, output
    assert "1 of the tests that use latency did not come to the call" in output
    suite = "def test_forgets(latency):\n    pass\n"
    ended, output = session(tmp_path, suite, "-p", "no:benchmark", "--budgets", str(budgets))
    assert ended == 1, output
    assert "the test has a budget and never called latency()" in output


def test_named_files_excuse_a_row_unless_strict(tmp_path: Path) -> None:
    budgets = tmp_path / "budgets.toml"
    budgets.write_text('[budget."of another file"]\np50_us = 1e9\n')
    (tmp_path / "test_one.py").write_text("def test_one(latency):\n    latency(len, [], samples=50)\n")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:benchmark",
        "--rootdir",
        str(tmp_path),
    ]
    alone = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    for strict, code in (([], 0), (["--budget-strict"], 4)):
        words = [*command, "--budgets", str(budgets), *strict, "test_one.py"]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=120, env=alone)
        assert done.returncode == code, done.stdout
        assert '"of another file"' in done.stdout
