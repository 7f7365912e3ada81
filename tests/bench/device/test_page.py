"""Rows on disk, and the page that is made of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.device import journal, page
from bench.device.predict.rows import Range
from rtaccel.core.errors import FormatError

TIMED: dict[str, Any] = {
    "outcome": "measured",
    "p50_us": 2.0,
    "p99_us": 2.5,
    "p999_us": 3.0,
    "max_us": 9.0,
    "calls": 10,
    "at_s": 12.0,
}


def found(rows: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    run = {"card": "Card", "date": "today", "machine": {"mps": "no", "variables": {}}}
    return {"run": run, "prepared": [], "rows": rows, "notes": [], "end": {"how": "ended", "at_s": 100.0}, **more}


def test_the_page_has_every_figure_and_what_became_of_the_rest() -> None:
    text = page.render(
        found(
            [
                {"name": "net", **TIMED, "device_us": 1.25, "sm_mhz": 1980},
                {"name": "one of eight", **TIMED, "ratio_p99": 1.07},
                {"name": "layer cold", "outcome": "measured", "device_us": 3.0, "copies": 6, "copies_mib": 192, "at_s": 13},
                {"name": "starts", "outcome": "failed", "error": "start 3: another answer", "check": True},
                {
                    "name": "file", "outcome": "failed", "check": True, "tests_passed": 3, "tests_failed": 2,
                    "tests_skipped": 1, "failing": ["a::b", "c::d"], "error": "2 failed",
                },
                {"name": "streams", "outcome": "passed", "check": True},
                {"name": "peer", "outcome": "error", "error": "does not | compile"},
                {"name": "slow", "outcome": "left out", "error": "left out: 2 s are left"},
            ],
            prepared=[{"name": "net", "outcome": "error", "error": "no compiler"}, {"name": "k", "outcome": "left out"}],
            notes=[{"text": "kernels are compiled by each row"}],
        )
    )  # fmt: skip
    for line in (
        "# Card, today", "| net | 2.00 | 2.50 | 3.00 | 1.50 | 1.25 | 1980 | - | - |", "| one of eight (1.07 of alone) | 2.00 |",
        "| layer cold (6 copies, 192 MiB) | - | - | - | - | 3.00 | - | - | - |",
        "| starts | failed |  |  |  | start 3: another answer |",
        "| file | failed | 3 | 2 | 1 | 2 failed: a::b, c::d |", "| streams | passed |", "| peer | error | does not \\| compile |",
        "- slow", "| net | error | no compiler |", "Kernels are compiled by each row.", "**Checks failed: starts, file.",
        "Rows: 3 measured, 1 passed, 1 error, 2 failed, 1 left out.", "The first figure was on disk after 12.0 s.",
        "The run ended after 100 s.",
    ):  # fmt: skip
        assert line in text, line
    assert "rehears" not in text


@pytest.mark.parametrize(
    ("outcome", "fails"),
    [
        ("failed", True), ("error", True), ("hang", True), ("crash", True), ("sticky CUDA error", True), ("out of memory", True),
        ("passed", False), ("left out", False), ("not run", False),
    ],
)  # fmt: skip
def test_a_check_that_did_not_pass_fails_the_run_and_a_figure_does_not(outcome: str, fails: bool) -> None:
    rows = [{"name": "check", "outcome": outcome, "check": True}, {"name": "figure", "outcome": outcome}]
    assert page.failures(found(rows)) == (["check"] if fails else [])


def test_a_rehearsal_cannot_be_taken_for_figures() -> None:
    rehearsed = found([{"name": "null model, persistent", **TIMED}])
    rehearsed["run"]["rehearsal"] = True
    text = page.render(rehearsed)
    assert page.REHEARSAL in text.splitlines()[2]
    assert "| rehearsed: PASS |" in text
    assert "| PASS |" not in text


def test_what_was_predicted_stands_beside_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the field that it is about; how far a figure is beyond the nearer end, and how many are inside."""
    ranges = {
        "net": Range("p99_us", 2.0, 3.0),
        "slow": Range("p99_us", 1.0, 2.0),
        "quick": Range("device_us", 2.0, 4.0),
    }
    monkeypatch.setattr(page, "of_rows", lambda: ranges)
    rows = [{"name": name, **TIMED} for name in (*ranges, "other")]
    rows[2] |= {"device_us": 1.0}
    text = page.render(found(rows))
    for line in (
        "| net | 2.00 | 2.50 | 3.00 | 1.50 | - | - | 2 to 3 (p99) | inside |",
        "| slow | 2.00 | 2.50 | 3.00 | 1.50 | - | - | 1 to 2 (p99) | +25 % |",
        "| quick | 2.00 | 2.50 | 3.00 | 1.50 | 1.00 | - | 2 to 4 (device) | -50 % |",
        "| other | 2.00 | 2.50 | 3.00 | 1.50 | - | - | - | - |", "Of 3 rows that were predicted 1 are inside their range.",
    ):  # fmt: skip
        assert line in text, line


def test_a_run_without_rows_or_end_is_a_page_too() -> None:
    text = page.render(found([], end=None))
    assert "The run was cut short" in text
    assert "Rows: none." in text
    assert "0 PASS, 0 FAIL" in text


def test_lines_come_back(tmp_path: Path) -> None:
    book = journal.Journal(tmp_path / "new" / "rows.jsonl")
    book.add("run", card="Card")
    assert journal.read(book.path)["run"] == {"card": "Card"}, "on disk at once"
    book.add("row", name="a", value=Path("x"))
    book.add("note", text="b")
    book.add("end", how="ended")
    book.close()
    read = journal.read(book.path)
    assert read["rows"] == [{"name": "a", "value": "x"}]
    assert read["notes"] == [{"text": "b"}]
    assert read["end"] == {"how": "ended"}
    with pytest.raises(FileExistsError):
        journal.Journal(book.path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no json\n",
        '{"kind": "row", "name": "a"}\n',
        '[1]\n{"kind": "run"}\n',
        '{"kind": "run"}\nbroken\n{"kind": "end"}\n',
    ],
)
def test_what_is_no_journal_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(text)
    with pytest.raises(FormatError, match=r"report.*Name the \.jsonl of a run"):
        journal.read(path)
    with pytest.raises(FormatError, match="report"):
        journal.read(tmp_path / "nothing.jsonl")
