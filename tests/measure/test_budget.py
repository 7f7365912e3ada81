"""Budgets: what is refused, and rows of a TOML file."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest

from rtaccel.core.errors import FormatError
from rtaccel.measure.budget import KEYS, Budget, load_budgets


@pytest.mark.parametrize("key", ["p50_us", "p99_us", "p999_us", "size_bytes", "max_error"])
@pytest.mark.parametrize("limit", [-1, math.nan, math.inf, "50", True])
def test_a_limit_that_is_no_number_is_refused(key: str, limit: object) -> None:
    with pytest.raises(FormatError, match=key):
        Budget(**{key: limit})


@pytest.mark.parametrize("key", ["p50_us", "p99_us", "p999_us", "size_bytes"])
def test_zero_is_refused_where_nothing_can_meet_it(key: str) -> None:
    with pytest.raises(FormatError, match=key):
        Budget(**{key: 0})
    assert Budget(max_error=0).max_error == 0


def test_an_empty_budget_and_a_reversed_one_are_refused() -> None:
    with pytest.raises(FormatError, match="p99_us"):
        Budget()
    with pytest.raises(FormatError, match="p50_us=60 above p99_us=50"):
        Budget(p50_us=60, p99_us=50)
    with pytest.raises(FormatError):
        Budget(p50_us=60, p999_us=50)
    with pytest.raises(FormatError, match="whole"):
        Budget(size_bytes=1.5)  # type: ignore[arg-type]


def test_a_budget_is_a_value() -> None:
    budget = Budget(p99_us=50, size_bytes=1000)
    assert budget == Budget.from_mapping({"size_bytes": 1000, "p99_us": 50})
    assert budget.as_dict() == {"p99_us": 50, "size_bytes": 1000}
    assert str(budget) == "p99_us=50, size_bytes=1000"
    assert budget.without_time() == Budget(size_bytes=1000)
    assert Budget(p99_us=50).without_time() is None
    with pytest.raises(dataclasses.FrozenInstanceError):
        budget.p99_us = 60  # type: ignore[misc]


def test_unknown_keys_are_refused_with_the_known_ones() -> None:
    with pytest.raises(FormatError) as caught:
        Budget.from_mapping({"p99_us": 50, "p95_us": 40})
    assert "p95_us" in str(caught.value)
    assert all(key in str(caught.value) for key in KEYS)


def test_rows_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "budgets.toml"
    file.write_text('[budget."vibration-64"]\np99_us = 50\nsize_bytes = 40_000\n[budget.tone]\np999_us = 1.5\n')
    assert load_budgets(file) == {
        "vibration-64": Budget(p99_us=50, size_bytes=40_000),
        "tone": Budget(p999_us=1.5),
    }


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ("p99_us = 50", "budget"),
        ("[budget]\np99_us = 50", "budget"),
        ("[budget.x]\np95_us = 50", "p95_us"),
        ("[budget.x]\n", "x"),
        ("[budget.x]\np99_us = 0", "p99_us"),
        ("not toml", "budgets file"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, content: str, names: str) -> None:
    file = tmp_path / "budgets.toml"
    file.write_text(content)
    with pytest.raises(FormatError, match=names):
        load_budgets(file)


def test_a_missing_file_is_a_typed_error(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"nowhere\.toml"):
        load_budgets(tmp_path / "nowhere.toml")
