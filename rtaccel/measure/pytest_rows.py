"""Rows of a budgets file that no test took: a misspelt name must not take a gate away without a word.

A row belongs to a test by its name, by its node id, or by `latency(name=...)`, which only a run shows. So a row that no
test took is wrong where the whole suite was there and every test that uses `latency` came to its call. Otherwise its test
may be among those left out, and the summary says so instead.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

_LEAVES_OUT = ("lf", "ignore", "ignore_glob", "benchmark_skip")
"""Options with which whole files are never looked at, or tests are not run."""


class Hooks:
    """Hooks that a conftest.py may have."""

    @pytest.hookspec
    def pytest_budget_names(self, config: pytest.Config) -> Iterable[str]:  # type: ignore[empty-body]
        """Names of rows that are right although no test here takes them: of another CPU or GPU, for example."""


@dataclass
class Rows:
    """What a session saw. names: of tests that use `latency`, deselected ones too, and those given to `latency`.

    waiting: node ids of tests that use `latency` and are to run; reached: of those that called it. deselected: how many
    were left out by -k, -m and the like.
    """

    names: set[str] = field(default_factory=set)
    waiting: set[str] = field(default_factory=set)
    reached: set[str] = field(default_factory=set)
    deselected: int = 0

    def collected(self, items: Iterable[Any], deselected: bool = False) -> None:
        for item in items:
            if "latency" in getattr(item, "fixturenames", ()):
                self.names |= {item.name, item.nodeid}
                if not deselected:
                    self.waiting.add(item.nodeid)
            self.deselected += deselected

    def measured(self, nodeid: str, name: str) -> None:
        self.names.add(name)
        self.reached.add(nodeid)

    def to_plain(self) -> dict[str, Any]:
        """For xdist, which carries plain values from its workers."""
        return {
            "names": sorted(self.names), "waiting": sorted(self.waiting), "reached": sorted(self.reached),
            "deselected": self.deselected,
        }  # fmt: skip

    def add_plain(self, seen: dict[str, Any]) -> None:
        self.names |= set(seen["names"])
        self.waiting |= set(seen["waiting"])
        self.reached |= set(seen["reached"])
        self.deselected = max(self.deselected, seen["deselected"])  # each worker collects the same


@dataclass(frozen=True)
class Unmatched:
    """rows: those that no test took, each with names that are near. excuse: why they may be right; None where not."""

    rows: tuple[str, ...]
    excuse: str | None

    def __str__(self) -> str:
        rows = "; ".join(self.rows)
        if self.excuse:
            return f"rows of the budgets file that no test took: {rows}. It may be because {self.excuse}"
        return f"error: rows of the budgets file that belong to no test: {rows}"


def unmatched(rows: Iterable[str], seen: Rows, config: pytest.Config) -> Unmatched | None:
    """None where every row has its test."""
    rows = list(rows)
    unknown = [row for row in rows if row not in seen.names]
    if not unknown:
        return None
    free = sorted(seen.names - set(rows))
    said = tuple(_with_near(row, free) for row in unknown)
    return Unmatched(said, _excuse(seen, config))


def _with_near(row: str, free: Sequence[str]) -> str:
    near = difflib.get_close_matches(row, free, 3, 0.6)
    return f'"{row}"' + (f" (did you mean {', '.join(near)}?)" if near else "")


def _excuse(seen: Rows, config: pytest.Config) -> str | None:
    """Naming files is one only without --budget-strict, which asks for proof."""
    missing = len(seen.waiting - seen.reached)
    if missing:
        return f"{missing:,} of the tests that use latency did not come to the call"
    if seen.deselected:
        return f"{seen.deselected:,} test{'s were' if seen.deselected > 1 else ' was'} deselected"
    left = [f"--{name.replace('_', '-')}" for name in _LEAVES_OUT if config.getoption(name, None)]
    if left:
        return f"{' '.join(left)} left tests out"
    single = [arg for arg in config.args if "::" in arg]
    files = [arg for arg in config.args if "::" not in arg and not (config.invocation_params.dir / arg).is_dir()]
    if single or (files and not config.getoption("--budget-strict")):
        return f"only {' '.join([*single, *files])} ran"
    return None
