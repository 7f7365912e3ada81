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
        help="a limit such as p99_us=50, p99=50us or size_bytes=40000; may be given several times",
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
        key, factor, number = _in_units(key, text)
        try:
            limit = float(number.replace("_", "")) * factor
        except ValueError:
            equals = ""
        if not equals or key in row:
            raise FormatError(
                "--budget", repr(pair), "KEY=LIMIT, each key once", "Write --budget p99_us=50 or p99=50us, for example."
            )
        row[key] = int(limit) if key.endswith("_bytes") and limit.is_integer() else limit
    return Budget.from_mapping(row, "--budget") if row else None


SHORT = {"p50": "us", "p99": "us", "p999": "us", "p99.9": "us", "size": "bytes", "peak": "bytes"}
"""Keys that may be written short, with a unit behind the number -> what the whole key ends with."""

UNITS = {
    "us": {"ns": 1e-3, "us": 1.0, "ms": 1e3, "s": 1e6},
    "bytes": {"kB": 1e3, "MB": 1e6, "KiB": 2.0**10, "MiB": 2.0**20, "B": 1.0},
}


def _in_units(key: str, text: str) -> tuple[str, float, str]:
    """(key, factor, number) of a pair such as p99=5us; others as they are."""
    if key not in SHORT:
        return key, 1.0, text
    for unit, factor in UNITS[SHORT[key]].items():
        number = text.removesuffix(unit)
        if number != text and number[-1:].isdigit():
            return f"{key.replace('.', '')}_{SHORT[key]}", factor, number
    return f"{key.replace('.', '')}_{SHORT[key]}", 1.0, text


def exit_code(verdicts: Sequence[str | None], allow_undecided: bool) -> int:
    """0 where every limit is proved or there is none, else 1."""
    good = {None, "PASS", "UNDECIDED"} if allow_undecided else {None, "PASS"}
    return int(any(verdict not in good for verdict in verdicts))
