"""Sessions of pytest with the plugin, each in a process and a folder of its own."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from tests.support.processes.run import PYTHON

BRIEF = """
import pytest
import rtaccel.measure.latency as latency_module
from rtaccel.measure.timing import sampler

@pytest.fixture(autouse=True)
def brief(monkeypatch):
    steady = sampler.warm_up_until_steady
    monkeypatch.setattr(latency_module, "MIN_SECONDS", 0.01)
    monkeypatch.setattr(sampler, "warm_up_until_steady", lambda loop, seconds: steady(loop, seconds / 20))
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
"""Tests within a budget, over it, undecided, and without one."""


def session(folder: Path, suite: str, *options: str) -> tuple[int, str]:
    (folder / "conftest.py").write_text(BRIEF)
    (folder / "test_suite.py").write_text(suite)
    command = [*PYTHON, "-m", "pytest", "-p", "no:cacheprovider", "--rootdir", str(folder), *options, "."]
    alone = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}  # no worker of xdist
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, env=alone)
    return done.returncode, done.stdout + done.stderr


def verdicts(output: str) -> dict[str, str]:
    table = output.split("latency budgets", 1)[1]
    return dict(
        re.findall(r"^(\S*[^:\s]) +[\d,]+ .*?(PASS|FAIL|UNDECIDED|NOT TIMED|no budget|not timed)$", table, re.MULTILINE)
    )
