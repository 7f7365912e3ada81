"""The plugin in sessions of its own: what is not timed, and rows of a budgets file that belong to no test."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.measure.plugin.plugin_sessions import session, verdicts
from tests.support.processes.run import PYTHON

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
        *PYTHON,
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
