"""The command line: without a card it says so; a rehearsal runs the whole table on stand-ins, in its order and its time."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.device import goals, journal, page, table
from bench.device.predict.rows import of_rows
from tests.support.processes.run import PYTHON

ROOT = Path(__file__).parent.parent.parent.parent
FACTOR = 20.0
RESULTS = ROOT / "bench" / "results"


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    outside = {k: v for k, v in os.environ.items() if k not in ("TRITON_INTERPRET", "OUT")}
    return subprocess.run(
        [*PYTHON, "-m", "bench.device", *words], cwd=ROOT, env=outside | environment, capture_output=True, text=True,
        check=False, timeout=120,
    )  # fmt: skip


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, and this would measure on it")
@pytest.mark.parametrize("words", [(), ("checks",)])
def test_without_a_gpu_it_says_so_and_ends_well(words: tuple[str, ...]) -> None:
    done = run(*words)
    assert done.returncode == 0, done.stderr
    assert "No GPU to measure" in done.stdout
    assert "GPU figures stay open" in done.stdout


a_rehearsal = pytest.mark.turns(3, "rehearsed")
"""It sleeps for half a minute."""


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    folder, before = tmp_path_factory.mktemp("rehearsal"), sorted(RESULTS.iterdir())
    done = run("--rehearse", "--factor", str(FACTOR), OUT=str(folder))
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(RESULTS.iterdir()) == before
    (path,) = folder.glob("*.jsonl")
    return journal.read(path), path


@a_rehearsal
def test_the_whole_table_is_told_in_its_order(rehearsed: tuple[dict[str, Any], Path]) -> None:
    found, _ = rehearsed
    assert [row["name"] for row in found["rows"]] == [name for row in table.rows() for name in row.names]
    assert {row["outcome"] for row in found["rows"]} == {"measured", "passed", "left out"}
    assert found["end"]["how"] == "ended"


def test_by_the_estimates_the_first_figure_is_there_within_90_seconds() -> None:
    rows = table.rows()
    first = next(n for n, row in enumerate(rows) if not row.check)
    assert sum(row.estimate_s for row in rows[: first + 1]) < 90


@a_rehearsal
def test_a_rehearsal_begins_nothing_that_its_time_does_not_hold(rehearsed: tuple[dict[str, Any], Path]) -> None:
    found, _ = rehearsed
    waited = sum(row.estimate_s for row in table.rows() if row.name in {
        r["name"] for r in found["rows"] if r["outcome"] in ("measured", "passed")
    })  # fmt: skip
    assert 0 < waited <= 60 * FACTOR * found["run"]["minutes"]


@a_rehearsal
def test_every_goal_gets_a_verdict_in_time(rehearsed: tuple[dict[str, Any], Path]) -> None:
    verdicts = goals.judged(rehearsed[0]["rows"])
    assert len(verdicts) > len(goals.GOALS)
    assert {verdict for *_, verdict in verdicts} == {goals.PASS, goals.FAIL}


@a_rehearsal
def test_kernels_of_rows_that_begin_were_built_before(rehearsed: tuple[dict[str, Any], Path]) -> None:
    found, _ = rehearsed
    built = {row["name"] for row in found["prepared"] if row["outcome"] == "passed"}
    measured = {row["name"] for row in found["rows"] if row["outcome"] == "measured"}
    assert {
        "LSTM_C 4x1000, one time step, rtaccel w8a8 persistent",
        "mlp 128x6, rtaccel w4a16 graph",
    } <= built & measured
    last_early = max(row["at_s"] for row in found["rows"] if row["name"].startswith("null model, persistent, CUDA"))
    assert all(row["at_s"] > last_early for row in found["prepared"])


@a_rehearsal
def test_every_predicted_row_has_its_prediction_beside_it(rehearsed: tuple[dict[str, Any], Path]) -> None:
    """And none of what was made up is taken for the error of one."""
    found, path = rehearsed
    text, known = path.with_suffix(".md").read_text(), of_rows()
    measured = [row["name"] for row in found["rows"] if row["outcome"] == "measured" and row["name"] in known]
    assert len(measured) > 40
    for name in measured:
        (line,) = [line for line in text.splitlines() if line.startswith(f"| {name} |") and str(known[name]) in line]
        assert "| rehearsed: " in line, line
    assert "are inside their range" not in text


@a_rehearsal
def test_nothing_of_it_looks_like_a_figure(rehearsed: tuple[dict[str, Any], Path]) -> None:
    found, path = rehearsed
    assert path.name.startswith("rehearsal-")
    assert found["run"]["rehearsal"] is True
    assert all(row.get("rehearsal") for row in found["rows"] if row["outcome"] in ("measured", "passed"))
    text = path.with_suffix(".md").read_text()
    assert page.REHEARSAL in text
    assert f"| {goals.PASS} |" not in text and f"| 2.5: {goals.PASS} |" not in text
    assert json.loads(path.with_suffix(".json").read_text())["run"]["rehearsal"] is True


def test_a_rehearsal_is_kept_out_of_the_results() -> None:
    done = run("--rehearse", "--out", str(RESULTS))
    assert done.returncode == 2
    assert "another folder for a rehearsal" in done.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("report",), "name the .jsonl"), (("report", "no/such.jsonl"), "No such file"), (("--minutes", "0"), "positive"),
        (("--minutes", "nan"), "positive"), (("--rows", "nothing"), "module:function"), (("other",), "invalid choice"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(words: tuple[str, ...], says: str) -> None:
    done = run(*words)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr
