"""The plugin in sessions of its own: verdicts. Limits are either far above any clock or below one reading of it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rtaccel.measure.budget import KEYS
from tests.measure.plugin.plugin_sessions import SUITE, session, verdicts


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
        assert extra["max_us"] == pytest.approx(stats["max"] * 1e6, abs=2e-3)  # nanoseconds, both rounded
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


SEVERAL = """
import pytest

@pytest.mark.budget(p99_us=1e-6)
class TestAll:
    @pytest.mark.budget(size_bytes=1e9)
    def test_limit_of_the_class(self, latency):
        latency(sum, (1, 2), size_bytes=10)

    @pytest.mark.budget(p99_us=1e9)
    def test_closest_of_one_limit(self, latency):
        assert latency(sum, (1, 2)).verdict == "PASS"

@pytest.mark.budget(p50_us=2e9)
class TestLoose:
    @pytest.mark.budget(p99_us=1e9)
    def test_a_limit_that_another_implies(self, latency):
        assert latency(sum, (1, 2)).verdict == "PASS"

@pytest.mark.budget(p99_us=1e-6)
@pytest.mark.budget(size_bytes=1e9)
def test_both_of_one_test(latency):
    latency(sum, (1, 2), size_bytes=10)

@pytest.mark.budget(p99_us=1e9)
@pytest.mark.budget(p99_us=1e-6)
def test_twice_the_same(latency):
    latency(sum, (1, 2))
"""


def test_every_marker_is_judged(tmp_path: Path) -> None:
    """Limits of a class and of a test come together, the closest of each; twice the same limit in one place is an error."""
    code, output = session(tmp_path, SEVERAL)
    assert code == 1, output
    assert re.search(r"2 failed, 2 passed,( \d+ warnings?,)? 1 error", output), output
    for name in ("FAILED test_suite.py::TestAll::test_limit_of_the_class", "FAILED test_suite.py::test_both_of_one_test",
                 "ERROR test_suite.py::test_twice_the_same"):  # fmt: skip
        assert name in output, output
    assert "p99_us=1e-06" in output or "p99_us=1e-6" in output, output


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
