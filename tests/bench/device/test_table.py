"""The table of rows: every goal has its row, the order is that of worth, and what it names is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.device import checks, goals, install, journal, page, sanitizer, table
from bench.device.planned.layers import LINEAR, SPARSE_PATTERNS
from bench.device.row import Row, resolve
from bench.device.rows import peers
from bench.device.rows.models import MAKERS, network, sequence

ROOT = Path(__file__).parent.parent.parent.parent
ROWS = table.rows()
BEFORE_S = 25.0
"""Finding the card and importing torch, before the first row."""


def position(start: str) -> int:
    return next(i for i, row in enumerate(ROWS) if row.name.startswith(start))


def test_every_goal_has_its_row() -> None:
    names = {name for row in ROWS for name in row.names}
    for goal in goals.GOALS:
        assert goal.row in names, goal.row
        assert not goal.over or goal.over in names, goal.over
    assert len({(goal.row, goal.over) for goal in goals.GOALS}) == len(goals.GOALS)


def test_names_are_there_once_and_targets_exist() -> None:
    names = [name for row in ROWS for name in row.names]
    assert len(names) == len(set(names))
    for target in {t for row in ROWS for t in (row.measure, row.prepare) if t}:
        assert callable(resolve(target))


def test_the_order_is_that_of_worth() -> None:
    starts = [
        "null model, persistent", "LSTM_A 2x100, one time step", "LSTM_B", "LSTM_C", "mlp 64-64-64-8, rtaccel w8a8 persistent",
        "mlp 64-64-64-8, rtaccel w8a8 graph", "linear 1x1024x1024 cold", "linear 1x4096x4096 cold",
        "checks of tests/triton_checks/check_kernels.py", "mlp 64-64-64-8, torch eager fp16",
    ]  # fmt: skip
    assert [position(start) for start in starts] == sorted(position(start) for start in starts)
    last_goal = max(i for i, row in enumerate(ROWS) for goal in goals.GOALS if goal.row in row.names)
    assert last_goal < position("checks of")


def test_the_first_figure_is_there_within_90_seconds_and_every_goal_in_time() -> None:
    """By the estimates; rows before the first figure count with their limits."""
    first = next(i for i, row in enumerate(ROWS) if not row.check)
    assert ROWS[first].early
    assert BEFORE_S + ROWS[first].estimate_s + sum(row.estimate_s for row in ROWS[:first]) < 45
    goal_rows = ROWS[: position("checks of")]
    assert BEFORE_S + 60 + sum(row.estimate_s for row in goal_rows) < 60 * 9.5
    assert all(0 < row.estimate_s < row.limit_s for row in ROWS)


def test_early_rows_come_first_and_canaries_need_little() -> None:
    early = [row.early for row in ROWS]
    assert early == sorted(early, reverse=True)
    assert {row.canary for row in ROWS} == {"", "fork", "store"}


def test_int4_has_both_lengths_of_groups_and_the_literature_is_held_against_128() -> None:
    names = {row.name for row in ROWS}
    for size in LINEAR:
        for group in ("g128", "g32"):
            assert f"linear {size} cold, rtaccel w4a16 {group}" in names
            assert f"linear {size}, rtaccel w4a16 {group} graph" in names
    (goal,) = [goal for goal in goals.GOALS if goal.row == "linear 1x4096x4096 cold, rtaccel w4a16 g128"]
    assert 1 / goal.part == pytest.approx(2.3)


def test_ours_and_others_are_cold_alike() -> None:
    for goal in goals.GOALS:
        if goal.over and "eight" not in goal.over:
            assert "cold" in goal.row
            assert "cold" in goal.over


def test_names_of_the_table_are_those_of_the_models() -> None:
    from bench.device.rows.sparse import PATTERNS
    from bench.device.rows.stages import OPERATIONS, TOKENS

    assert tuple(MAKERS) and set(MAKERS) == set(table.STEPS)
    assert set(SPARSE_PATTERNS) == set(PATTERNS)
    for name in ("mlp 64-64-64-8", table.AUTOENCODER):
        model, inputs = network(name)
        assert next(model.parameters()).shape[1] == inputs
    assert sequence("TCN 3x128 k8").window(2).shape == (2, 128, 22)
    ways = {row.arguments["way"] for row in ROWS if row.measure.endswith(":peer_row")}
    assert ways == {*peers.QUICK, *peers.SLOW, peers.FLOAT32} and peers.FLOAT32 == table.FLOAT32
    assert tuple(OPERATIONS) == table.OPERATIONS and tuple(TOKENS) == table.TOKENS


def test_the_files_that_are_checked_are_there() -> None:
    assert all((ROOT / file.path).exists() for file in checks.FILES)
    assert all((ROOT / name).exists() for name in sanitizer.CHECKS)
    assert sum(file.estimate_s for file in checks.FILES) < 60 * 9.5


def test_needs_have_a_purpose() -> None:
    assert {need.module for need in install.NEEDS if not need.optional} == {"torch", "numpy", "safetensors", "triton"}
    assert all(need.purpose for need in install.NEEDS)


def test_goals_are_judged_by_what_was_measured() -> None:
    fast = "linear 1x4096x4096 cold, rtaccel w4a16 g128"
    graph = "linear 1x4096x4096, rtaccel w4a16 g128 graph"
    rows = [
        {"name": "null model, persistent", "p50_us": 2.0, "p99_us": 2.5, "p999_us": 2.7},
        {"name": fast, "device_us": 4.0},
        {"name": graph, "device_us": 4.0, "p99_us": 15.0, "p50_us": 12.0},
        {"name": "linear 1x4096x4096 cold, torch fp16", "device_us": 8.0},
        {"name": "mlp 256-384-384-128, rtaccel w8a8 persistent", "p50_us": 4.0, "p99_us": 5.5, "p999_us": 6.0},
        {"name": "LSTM_B 3x200, one time step, rtaccel w8a8 persistent", "outcome": "hang", "error": "no end"},
    ]
    found = {(verdict.row, verdict.goal): tuple(verdict[2:]) for verdict in goals.judged(rows)}
    assert found["null model, persistent", "p99_us 3, then 2.5"] == ("2.50 us", "3, 2.5", "2.5: PASS", "PASS")
    assert found["null model, persistent", "p99.9 / p50 1.3"] == ("1.35", "-", "-", "FAIL")
    assert found[fast, "2.3 x as fast as torch fp16"] == ("2.00 x (4.00 and 8.00 us)", "-", "-", "FAIL")
    assert found[graph, "p99 10 us over the card"] == ("11.00 us", "-", "-", "FAIL")
    assert found["mlp 256-384-384-128, rtaccel w8a8 persistent", "p99_us 5, then 4.5"] == (
        "5.50 us",
        "-",
        "4.5: FAIL",
        "FAIL",
    )
    step = "one time step, rtaccel w8a8 persistent"
    assert found[f"LSTM_A 2x100, {step}", "p99_us 4.6"] == ("-", "-", "-", "not measured")
    assert found[f"LSTM_B 3x200, {step}", "p99_us 6.9, then 5"] == ("-", "-", "5: not measured", "not measured")


STEP = "one time step, rtaccel w8a8 persistent"


@pytest.mark.parametrize(
    ("name", "p99_us", "reached", "strictest", "said"),
    [
        ("LSTM_A 2x100", 6.5, "-", "-", "FAIL"), ("LSTM_A 2x100", 5.9, "6", "-", "FAIL"),
        ("LSTM_A 2x100", 4.6, "6, 4.6", "-", "PASS"),
        ("LSTM_B 3x200", 9.9, "10", "5: FAIL", "FAIL"), ("LSTM_B 3x200", 6.8, "10, 6.9", "5: FAIL", "PASS"),
        ("LSTM_B 3x200", 4.9, "10, 6.9, 5", "5: PASS", "PASS"),
        ("LSTM_C 4x1000", 20.0, "25", "-", "FAIL"), ("LSTM_C 4x1000", 14.0, "25, 15", "-", "FAIL"),
        ("LSTM_C 4x1000", 9.0, "25, 15, 10", "-", "PASS"),
    ],
)  # fmt: skip
def test_every_step_of_a_goal_is_judged(name: str, p99_us: float, reached: str, strictest: str, said: str) -> None:
    """A looser number on the way is no goal: a row that has that alone has failed."""
    judged = goals.judged([{"name": f"{name}, {STEP}", "p99_us": p99_us}])
    (found,) = [verdict for verdict in judged if verdict.row == f"{name}, {STEP}"]
    assert (found.reached, found.strictest, found.said) == (reached, strictest, said)


@pytest.mark.parametrize(
    ("row", "steps", "needed"),
    [
        ("null model, persistent", (3.0, 2.5), 3.0), (f"LSTM_A 2x100, {STEP}", (6.0, 4.6), 4.6),
        (f"LSTM_B 3x200, {STEP}", (10.0, 6.9, 5.0), 6.9), (f"LSTM_C 4x1000, {STEP}", (25.0, 15.0, 10.0), 10.0),
        ("mlp 256-384-384-128, rtaccel w8a8 persistent", (5.0, 4.5), 5.0),
        (f"{table.AUTOENCODER}, rtaccel w8a8 persistent", (5.0, 4.5), 5.0),
    ],
)  # fmt: skip
def test_the_goals_are_those_of_the_project(row: str, steps: tuple[float, ...], needed: float) -> None:
    (goal,) = [goal for goal in goals.GOALS if goal.row == row]
    assert goal.steps == steps and goal.at_most[0] == needed


def test_layers_are_held_against_torch_as_the_project_has_it() -> None:
    times = {goal.row: 1 / goal.part for goal in goals.GOALS if goal.over and goal.row.startswith("linear")}
    of = "x4096x4096 cold, rtaccel w4a16 g128"
    assert times == {f"linear 1{of}": pytest.approx(2.3), f"linear 16{of}": pytest.approx(1.7), f"linear 64{of}": 1.0}


def test_rehearsed_rows_keep_everything_but_their_times() -> None:
    row = Row("x", "a:b", estimate_s=10, limit_s=400, check=True, more=("y",))
    faster = row.faster(10)
    assert (faster.estimate_s, faster.limit_s, faster.names, faster.check) == (1, 40, ("x", "y"), True)
    assert journal.KINDS
    assert page.REHEARSAL
