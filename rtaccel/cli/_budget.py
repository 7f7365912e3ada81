"""Budgets on the command line, and the exit code that follows from a verdict."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rtaccel.core.errors import FormatError

if TYPE_CHECKING:
    from rtaccel.measure.budget import Budget


def add_budget(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--budget", action="append", default=[], metavar="KEY=LIMIT",
        help="a limit such as p99_us=50 or size_bytes=40000; may be given several times",
    )  # fmt: skip
    add_undecided(parser)


def add_undecided(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--allow-undecided", action="store_true", help="exit with 0 where a limit cannot be decided")


def parse_budget(pairs: Sequence[str]) -> Budget | None:
    """None without pairs. Raises FormatError for a pair that is none, a key twice, or what Budget refuses."""
    from rtaccel.measure.budget import Budget

    row: dict[str, float] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        try:
            limit = float(text.replace("_", ""))
        except ValueError:
            equals = ""
        if not equals or key in row:
            raise FormatError(
                "--budget", repr(pair), "KEY=LIMIT, each key once", "Write --budget p99_us=50, for example."
            )
        row[key] = int(limit) if key == "size_bytes" and limit.is_integer() else limit
    return Budget.from_mapping(row, "--budget") if row else None


def exit_code(verdicts: Sequence[str | None], allow_undecided: bool) -> int:
    """0 where every limit is proved or there is none, else 1."""
    good = {None, "PASS", "UNDECIDED"} if allow_undecided else {None, "PASS"}
    return int(any(verdict not in good for verdict in verdicts))
