"""Counts what the generated tests check: a case is one call of rtaccel whose result was held against what it should be.

The cases of all workers are added up, written to `cases.json` in pytest's base folder, and told at the end of the run.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from typing import Any

import pytest

GOAL = int(os.environ.get("RTACCEL_CASES", "20000"))
"""Cases of a run: 20,000 in CI, 200,000 in `make check`."""

_counts: Counter[str] = Counter()
_workers: Counter[str] = Counter()


def case(kind: str, count: int = 1) -> None:
    _counts[kind] += count


def examples(at_goal: int) -> int:
    """How many examples Hypothesis draws, from how many it draws in a run of 20,000 cases."""
    return max(1, at_goal * GOAL // 20_000)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: Any) -> None:
    _workers.update(getattr(node, "workeroutput", {}).get("rtaccel_cases", {}))


def pytest_sessionfinish(session: pytest.Session) -> None:
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["rtaccel_cases"] = dict(_counts)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    total = _counts + _workers
    if not total or hasattr(config, "workerinput"):
        return
    parts = ", ".join(f"{kind} {count:,}" for kind, count in sorted(total.items()))
    terminalreporter.write_line(f"generated cases: {sum(total.values()):,} ({parts})")
    factory = getattr(config, "_tmp_path_factory", None)
    if factory is not None:
        (factory.getbasetemp() / "cases.json").write_text(
            json.dumps(total, indent=1, sort_keys=True) + "\n", encoding="utf-8"
        )
