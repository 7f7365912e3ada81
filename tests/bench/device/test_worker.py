"""What a process does with one task: outcomes by what was raised, and the card's memory asked before."""

from __future__ import annotations

from typing import Any

import pytest

from bench.device import worker
from bench.device.row import OUTCOMES, Row, resolve
from rtaccel.core.errors import BackendUnavailable, FormatError, ShapeError

HERE = "tests.bench.device.stand_in_rows"


def done(row: Row, free: int = 1 << 20) -> tuple[list[dict[str, Any]], bool]:
    rows: list[dict[str, Any]] = []
    again = worker.do(row.task(), lambda row: rows.append(row), lambda: free)
    assert all(r["outcome"] in OUTCOMES for r in rows)
    return rows, again


def test_less_memory_than_a_row_needs_is_said() -> None:
    rows, again = done(Row("large", f"{HERE}:good", memory_mib=3000), free=2999)
    assert again
    assert rows[0]["outcome"] == "not run"
    assert rows[0]["error"] == "needs 3000 MiB of the card's memory, 2999 MiB are free"
    assert done(Row("large", f"{HERE}:good", memory_mib=3000), free=3000)[0][0]["outcome"] == "measured"


@pytest.mark.parametrize(
    ("function", "outcome", "again"),
    [("good", "measured", True), ("refuse", "error", True), ("fill", "out of memory", False)],
)
def test_a_process_goes_on_only_where_nothing_is_left(function: str, outcome: str, again: bool) -> None:
    rows, goes_on = done(Row("r", f"{HERE}:{function}"))
    assert (rows[0]["outcome"], goes_on) == (outcome, again)


def test_causes_are_looked_at() -> None:
    typed = BackendUnavailable("graph", "an error", "none", "Start anew.")
    typed.__cause__ = RuntimeError("CUDA error: misaligned address")
    assert worker.outcome_of(typed)[0] == "sticky CUDA error"
    assert not worker.is_harmless(typed)
    assert worker.outcome_of(ValueError("misaligned address"))[0] == "error"
    assert worker.is_harmless(ShapeError("linear", "3", "4", "Pad it."))
    assert not worker.is_harmless(ValueError("of another package"))


@pytest.mark.parametrize(
    "target", ["", "nothing", ":rows", "bench.device.table:", "no.such:thing", "bench.device.table:nothing"]
)
def test_targets_are_checked(target: str) -> None:
    with pytest.raises(FormatError, match=r"bench\.device"):
        resolve(target)
