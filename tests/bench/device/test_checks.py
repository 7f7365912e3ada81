"""Files of tests as rows: counts from the XML, the names of what failed, and what had run when the limit came."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.device import checks, sanitizer

TESTS = """
import time, pytest
def test_good(): pass
def test_bad(): assert 1 == 2
@pytest.mark.skip(reason="no such card")
def test_skipped(): pass
@pytest.mark.parametrize("i", [1, 2])
def test_both(i): pass
"""


def row(tmp_path: Path, code: str, *words: str, limit_s: float = 60) -> dict[str, Any]:
    path = tmp_path / "check_x.py"
    path.write_text(code)
    return checks.file_row(str(path), limit_s, ("-p", "no:rtaccel", *words))


def test_counts_and_names_come_from_the_report(tmp_path: Path) -> None:
    found = row(tmp_path, TESTS)
    assert (found["tests_passed"], found["tests_failed"], found["tests_skipped"]) == (3, 1, 1)
    assert found["passed"] is False
    assert found["error"] == "1 failed"
    assert [name.rpartition("::")[2] for name in found["failing"]] == ["test_bad"]
    assert found["skipped_for"] == ["no such card"]


def test_a_file_that_passes_and_one_where_nothing_ran(tmp_path: Path) -> None:
    found = row(tmp_path, TESTS, "-k", "good or both")
    assert found["passed"] is True
    assert found["tests_passed"] == 3
    nothing = row(tmp_path, TESTS, "-k", "skipped")
    assert nothing["outcome"] == "not run"
    assert "no such card" in nothing["error"]
    assert "passed" not in nothing


@pytest.mark.turns(3)
def test_the_limit_keeps_what_had_run(tmp_path: Path) -> None:
    found = row(tmp_path, TESTS + "def test_hangs(): time.sleep(60)\n", limit_s=6)
    assert found["passed"] is False
    assert found["error"] == "not done within 6 s"
    assert (found["tests_passed"], found["tests_failed"], found["tests_skipped"]) == (3, 1, 1)
    assert [name.rpartition("::")[2] for name in found["failing"]] == ["test_bad"]


def test_a_file_that_breaks_is_told(tmp_path: Path) -> None:
    found = row(tmp_path, "import no_such_module\n")
    assert found["passed"] is False
    assert found["tests_failed"] == 1
    crashed = row(tmp_path, "import os\ndef test_good(): pass\ndef test_dies(): os.abort()\n")
    assert crashed["passed"] is False
    assert "no report" in crashed["error"]
    assert crashed["tests_passed"] == 1


def test_a_test_does_not_see_the_variables_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RTACCEL_KERNELS", "/nowhere")
    assert row(tmp_path, "import os\ndef test_it(): assert 'RTACCEL_KERNELS' not in os.environ\n")["passed"] is True


def test_lines_of_processes_side_by_side_are_read() -> None:
    text = "[gw0] [ 50%] PASSED a.py::test_x[1] \n[gw1] [100%] FAILED a.py::test_y \na.py::test_z SKIPPED (why)\n"
    found = checks.unfinished(text)
    assert (found["tests_passed"], found["tests_failed"], found["tests_skipped"]) == (1, 1, 1)
    assert found["failing"] == ["a.py::test_y"]


@pytest.mark.parametrize(
    ("code", "text", "outcome"),
    [
        (0, "", {"passed": True}), (sanitizer.FAULT, "Invalid read", {"passed": False, "error": "found faults"}),
        (1, "1 failed", {"passed": False, "error": "tests failed"}),
        (1, "========= Error: Device not supported", {"outcome": "not run"}),
    ],
)  # fmt: skip
def test_the_sanitizer(monkeypatch: pytest.MonkeyPatch, code: int, text: str, outcome: dict[str, Any]) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: name)
    program = f"print({text!r}); raise SystemExit({code})"
    monkeypatch.setattr(sanitizer, "command", lambda tool: [sys.executable, "-c", program])
    found = sanitizer.tool_row("memcheck")
    assert outcome.items() <= found.items()


def test_a_sanitizer_that_is_not_there_or_takes_long_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert "not installed" in sanitizer.tool_row("memcheck")["error"]
    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setattr(sanitizer, "command", lambda tool: [sys.executable, "-c", "import time; time.sleep(60)"])
    found = sanitizer.tool_row("memcheck", 0.5)
    assert found == {"outcome": "not run", "error": "not done in 0.5 s"}
    assert [sanitizer.tool_row.__defaults__, len(sanitizer.TOOLS)] == [(sanitizer.LIMIT_S,), 2]
