"""A row that hangs, crashes, corrupts or fills the card costs itself alone: the real supervisor over rows that do all of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from bench.device import journal, processes, supervisor
from bench.device.row import Row
from bench.device.supervisor import Clock, Supervisor, reachable

ROOT = Path(__file__).parent.parent.parent.parent


def command(rows: str, folder: Path, *more: str) -> subprocess.Popen[str]:
    (folder / "notes").mkdir()
    return subprocess.Popen(
        [
            sys.executable, "-m", "bench.device", "--rows", f"tests.bench.device.stand_in_rows:{rows}",
            "--out", str(folder / "out"), "--minutes", "0.5", *more,
        ],
        cwd=ROOT, env=os.environ | {"STAND_INS": str(folder / "notes")}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def read(folder: Path) -> dict[str, Any]:
    (path,) = (folder / "out").glob("*.jsonl")
    return journal.read(path)


def alive(number: str) -> bool:
    """Whether a process runs; one that ended and was not reaped yet does not."""
    try:
        return Path("/proc", number, "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path, str, int]:
    folder = tmp_path_factory.mktemp("everything")
    started = command("everything", folder)
    out, err = started.communicate(timeout=120)
    assert started.returncode in (0, 1), err
    return read(folder), folder, out, started.returncode


@pytest.mark.parametrize(
    ("name", "outcome", "says"),
    [
        ("hangs", "hang", "no end within 0.6 s"), ("aborts", "crash", "SIGABRT"), ("faults", "crash", "SIGSEGV"),
        ("leaves", "crash", "exit code 3"), ("corrupts", "sticky CUDA error", "illegal memory access"),
        ("fills", "out of memory", "Tried to allocate"), ("fills the host", "out of memory", "MemoryError"),
        ("refused", "error", "a wide layer"), ("never came", "hang", "no end"), ("hangs with a child", "hang", "no end"),
        ("wrong", "failed", "another number"), ("no such function", "error", "nothing_here"),
        ("too long for the time that is left", "left out", "it takes about 1e+05"),
    ],
)  # fmt: skip
def test_a_row_says_which_way_it_failed(
    ran: tuple[dict[str, Any], Path, str, int], name: str, outcome: str, says: str
) -> None:
    (row,) = [row for row in ran[0]["rows"] if row["name"] == name]
    assert row["outcome"] == outcome
    assert says in row["error"]


def test_what_follows_a_failure_is_measured(ran: tuple[dict[str, Any], Path, str, int]) -> None:
    outcomes = {row["name"]: row["outcome"] for row in ran[0]["rows"]}
    for name in (
        "early",
        *(f"good {i}" for i in range(1, 6)),
        "corrupted",
        "second of two",
        "came before the hang",
        "last",
    ):
        assert outcomes[name] == "measured", name
    assert len(outcomes) == len(ran[0]["rows"]), "a row was told twice"


def test_a_family_shares_a_process_until_something_breaks(ran: tuple[dict[str, Any], Path, str, int]) -> None:
    process = {row["name"]: row.get("process") for row in ran[0]["rows"]}
    assert process["good 1"] == process["good 2"] == process["good 3"], "a refusal leaves nothing behind"
    assert process["good 3"] != process["good 4"], "a hang does"
    assert process["early"] != process["good 1"]
    assert process["first of two"] == process["second of two"] != process["good 5"]


def test_children_that_left_their_session_are_gone_before_the_next_row(
    ran: tuple[dict[str, Any], Path, str, int],
) -> None:
    outcomes = {row["name"]: row["outcome"] for row in ran[0]["rows"]}
    assert outcomes["leaves a child"] == "measured"
    assert outcomes["the child is gone"] == outcomes["that child is gone"] == outcomes["its child is gone"] == "passed"
    notes = ran[1] / "notes"
    assert not any(alive(path.name.rpartition("-")[2]) for path in [*notes.glob("hangs-*"), *notes.glob("builds-*")])


def test_kernels_are_built_ahead_without_the_card(ran: tuple[dict[str, Any], Path, str, int]) -> None:
    prepared = {row["name"]: row["outcome"] for row in ran[0]["prepared"]}
    assert prepared == {"good 1": "passed", "good 3": "crash", "good 4": "left out"}
    assert (ran[1] / "notes" / "built").read_text() == "\n", "each once, and CUDA_VISIBLE_DEVICES is empty there"


def test_it_is_told_as_it_comes_and_kept(ran: tuple[dict[str, Any], Path, str, int]) -> None:
    found, folder, out, code = ran
    assert code == 1, "a check failed"
    assert "hangs: hang: no end within 0.6 s" in out
    assert {path.suffix for path in (folder / "out").iterdir()} == {".jsonl", ".json", ".md", ".log"}
    hung = next(row for row in found["rows"] if row["name"] == "hangs")
    assert hung["said"].endswith("about to hang")
    assert [row["at_s"] for row in found["rows"]] == sorted(row["at_s"] for row in found["rows"])
    assert found["run"]["rehearsal"] is True


def test_canaries_say_what_to_do_without(tmp_path: Path) -> None:
    started = command("canaries", tmp_path)
    _, err = started.communicate(timeout=120)
    assert started.returncode == 0, err
    found = read(tmp_path)
    outcomes = [(row["name"], row["outcome"]) for row in found["rows"]]
    assert outcomes == [
        ("can be forked", "error"), ("can be forked", "passed"), ("store", "error"), ("store", "passed"), ("after", "passed"),
    ]  # fmt: skip
    assert [note["text"].split(" ")[0] for note in found["notes"]] == ["forked", "kernels"]


def wait_for(folder: Path) -> str:
    """The number of the process that hangs, once it does."""
    until = time.monotonic() + 60
    while not (hanging := list((folder / "notes").glob("hangs-*"))):
        assert time.monotonic() < until
        time.sleep(0.02)
    return hanging[0].name.rpartition("-")[2]


def test_a_run_that_is_asked_to_end_keeps_what_it_has(tmp_path: Path) -> None:
    started = command("waits", tmp_path)
    number = wait_for(tmp_path)
    started.send_signal(signal.SIGTERM)
    started.communicate(timeout=60)
    assert started.returncode == 130
    assert not alive(number)
    assert [row["name"] for row in read(tmp_path)["rows"]] == ["quick"]
    (page,) = (tmp_path / "out").glob("*.md")
    assert "was interrupted" in page.read_text()


def test_a_run_that_is_killed_leaves_its_rows_and_no_process(tmp_path: Path) -> None:
    started = command("waits", tmp_path)
    number = wait_for(tmp_path)
    started.kill()
    started.communicate(timeout=60)
    until = time.monotonic() + 60
    while alive(number) and time.monotonic() < until:
        time.sleep(0.02)
    assert not alive(number)
    (path,) = (tmp_path / "out").glob("*.jsonl")
    with path.open("a") as file:
        file.write('{"kind": "row", "na')  # as where a line was cut
    again = [sys.executable, "-m", "bench.device", "report", str(path)]
    done = subprocess.run(again, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "The run was cut short" in path.with_suffix(".md").read_text()
    assert "| quick | 2.00 |" in done.stdout


def test_nothing_starts_beside_a_process_that_does_not_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "become_reaper", lambda: True)
    monkeypatch.setattr(processes, "strangers", lambda kept: {77})
    monkeypatch.setattr(processes, "end_others", lambda kept, limit_s: {77})
    monkeypatch.setattr(supervisor, "Worker", None)
    book = journal.Journal(tmp_path / "rows.jsonl")
    book.add("run", card="stuck")
    Supervisor(book, Clock.of(1), tmp_path / "log", tell=lambda text: None).run([Row("next", "x:y")])
    (row,) = journal.read(book.path)["rows"]
    assert row["outcome"] == "not run"
    assert "77" in row["error"]


def test_nothing_is_built_for_rows_that_cannot_begin() -> None:
    rows = [Row(str(i), "x:y", estimate_s=10) for i in range(10)]
    assert [row.name for row in reachable(rows, 13)] == ["0", "1", "2"]
    assert len(reachable(rows, 1000)) == 10
