"""Tests that take turns by the day: each has its day, and the table of what they take names tests that exist."""

from __future__ import annotations

import ast
import json
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests import turns


class _Item(SimpleNamespace):
    """Of a test, what taking turns looks at."""

    nodeid: str
    mark: pytest.Mark | None

    def get_closest_marker(self, name: str) -> pytest.Mark | None:
        return self.mark

    def add_marker(self, mark: pytest.MarkDecorator, append: bool) -> None:
        assert not append  # the closest
        self.mark = mark.mark


def _items(file: str, count: int, *mark: Any) -> list[Any]:
    return [_Item(nodeid=f"{file}[{i}]", mark=pytest.mark.turns(*mark).mark if mark else None) for i in range(count)]


def _days_of(items: list[Any], monkeypatch: pytest.MonkeyPatch, days: int) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {item.nodeid: [] for item in items}
    for day in range(days):
        monkeypatch.setattr(turns, "DAY", day)
        left = {item.nodeid for item in turns.others(items)}
        for item in items:
            if item.nodeid not in left:
                found[item.nodeid].append(day)
    return found


def test_each_case_has_one_day_of_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    table = {
        "tests/a.py::test_x": 12.4,
        "tests/a.py::test_one": 10.0,
        "tests/a.py::test_own": 5.0,
        "tests/a.py::test_fixture": 99.0,
    }
    monkeypatch.setattr(turns, "seconds", lambda: table)
    monkeypatch.setattr(turns, "SECONDS_A_DAY", 2.5)
    family, one = _items("tests/a.py::test_x", 23), _items("tests/a.py::test_one", 1)
    own, fixture = _items("tests/a.py::test_own", 12, 6), _items("tests/a.py::test_fixture", 3, 4, "made once")
    always = _items("tests/a.py::test_short", 2)
    items = [*family, *one, *own, *fixture, *always]
    turns.mark_long(items)
    assert [item.mark and item.mark.args for item in (family[0], one[0], own[0], fixture[0], always[0])] == [
        (5,), (4,), (6,), (4, "made once"), None,
    ]  # fmt: skip
    found = _days_of(items, monkeypatch, 60)
    for part, days in ((family, 5), (one, 4), (own, 6), (fixture, 4), (always, 1)):
        assert all(len(found[item.nodeid]) == 60 // days for item in part)
        assert all(b - a == days for item in part for a, b in pairwise(found[item.nodeid]))
    assert {len([i for i in family if day in found[i.nodeid]]) for day in range(60)} == {4, 5}  # as many each day
    assert len({tuple(found[item.nodeid]) for item in fixture}) == 1


def test_the_table_names_tests_that_are_there() -> None:
    for name, seconds in turns.seconds().items():
        path, _, function = name.partition("::")
        body = ast.parse(Path(path).read_text()).body
        defined = [node.name for node in body if isinstance(node, ast.FunctionDef)]
        imported = [
            alias.asname or alias.name for node in body if isinstance(node, ast.ImportFrom) for alias in node.names
        ]
        assert function in defined + imported, (
            f"{name} is gone: run the file with --junitxml=x.xml and python -m tests.turns x.xml"
        )
        assert seconds >= turns.SECONDS_A_DAY


def test_a_report_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report, table = tmp_path / "x.xml", tmp_path / "seconds.json"
    here = "tests.house.test_turns"
    cases = [
        (here, "test_a[1]", 2.0),
        (here, "test_a[2::3]", 4.04),
        (here, "test_b", 1.0),
        (f"{here}.TestClass", "test_c", 9.0),
    ]
    rows = "".join(f'<testcase classname="{module}" name="{name}" time="{time}"/>' for module, name, time in cases)
    report.write_text(f"<testsuites><testsuite>{rows}</testsuite></testsuites>")
    known = {
        "tests/house/test_turns.py::test_b": 7.0,
        "tests/house/test_words.py::test_d": 8.0,
        "tests/gone.py::test_e": 9.0,
    }
    table.write_text(json.dumps(known))
    monkeypatch.setattr(turns, "TABLE", table)
    turns.record(report)
    assert json.loads(table.read_text()) == {
        "tests/house/test_turns.py::test_a": 6.0,
        "tests/house/test_words.py::test_d": 8.0,
    }
