"""A budget: the latencies, size and error that a model must stay within."""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from os import PathLike
from pathlib import Path
from typing import Any

from rtaccel.core.errors import FormatError
from rtaccel.measure.numbers import is_finite, shown


@dataclass(frozen=True)
class Budget:
    """Upper limits, but for min_metric; each is met by a value equal to it, and None means no limit.

    p50_us, p99_us, p999_us: latency of one call in microseconds that at least 50 %, 99 % and 99.9 % of calls must meet.
    size_bytes: bytes of the weights. peak_bytes: of everything that a compiled model holds while it runs: packed weights, scratch
        and states (`CompiledModel.peak_bytes`).
    joules: of one call, as `measure(joules=)` is given it (`rtaccel.measure.energy` where there is a counter).
    max_error: error against a reference, in whatever unit `measure(error=)` is given; 0 asks for equality.
    min_metric: a lower limit, of a task metric where more is better (accuracy, AUC), as `measure(metric=)` is given it.

    Raises FormatError for a limit that is not a positive finite number (max_error may be 0, min_metric anything finite),
    and for a budget with no limit at all: it has nothing to prove, and a PASS on it would be empty.
    """

    p50_us: float | None = None
    p99_us: float | None = None
    p999_us: float | None = None
    size_bytes: int | None = None
    max_error: float | None = None
    min_metric: float | None = None
    peak_bytes: int | None = None
    joules: float | None = None

    def __post_init__(self) -> None:
        limits = self.as_dict()
        if not limits:
            raise FormatError("Budget", "no limit at all", "at least one of " + ", ".join(KEYS), "Set one.")
        for key, limit in limits.items():
            _check(key, limit)
        ordered = [(k, limits[k]) for k in TIME_KEYS if k in limits]
        for (low_key, low), (high_key, high) in itertools.pairwise(ordered):
            if low > high:
                got = f"{low_key}={shown(low)} above {high_key}={shown(high)}"
                raise FormatError(
                    "Budget", got, "a higher percentile to have a higher limit", "Swap them, or drop one."
                )

    @classmethod
    def from_mapping(cls, row: Mapping[str, Any], where: str = "Budget") -> Budget:
        """A budget from a TOML row or keyword arguments. Raises FormatError for an unknown key, naming the known ones.

        where: what the error message names, for example the file and the row.
        """
        if not isinstance(row, Mapping):
            raise FormatError(where, type(row).__name__, "limits by name: " + ", ".join(KEYS), "Write p99_us = 50.")
        unknown = [key for key in row if key not in KEYS]
        if unknown:
            raise FormatError(
                where, "unknown key " + ", ".join(map(repr, unknown)), "only " + ", ".join(KEYS), "Correct the key."
            )
        return cls(**row)

    def as_dict(self) -> dict[str, float]:
        """The limits that are set, by key."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) is not None}

    def without_time(self) -> Budget | None:
        """What is left when time cannot be judged: bytes, error, metric and joules; None when that is nothing."""
        if all(getattr(self, key) is None for key in EXACT):
            return None
        return replace(self, p50_us=None, p99_us=None, p999_us=None)

    def scaled(self, factor: float) -> Budget:
        """Its latencies times `factor`; the rest as it is."""
        times: Any = {key: limit * factor for key, limit in self.as_dict().items() if key in TIME_KEYS}
        return replace(self, **times)

    def __str__(self) -> str:
        return ", ".join(f"{key}={limit:.10g}" for key, limit in self.as_dict().items())


KEYS = tuple(f.name for f in fields(Budget))
"""Every key a budget may have."""

TIME_KEYS = ("p50_us", "p99_us", "p999_us")
"""The keys that are latencies, from the loosest percentile to the strictest."""

EXACT = {
    "size_bytes": "size_bytes", "max_error": "error", "min_metric": "metric", "peak_bytes": "peak_bytes", "joules": "joules",
}  # fmt: skip
"""Keys that are known numbers, not sampled -> the argument of `measure` that they limit."""


def _check(key: str, limit: Any) -> None:
    number = is_finite(limit)
    if key.endswith("_bytes"):
        if number and limit > 0 and limit == math.floor(limit):
            return
        raise FormatError("Budget", f"{key}={shown(limit)}", "a positive whole number of bytes", "Give bytes, not KiB.")
    if number and (limit > 0 or (key == "max_error" and limit == 0) or key == "min_metric"):
        return
    expected = {
        "max_error": "a finite number, 0 or above", "min_metric": "a finite number", "joules": "a positive finite number",
    }.get(key, "a positive finite number of microseconds")  # fmt: skip
    raise FormatError("Budget", f"{key}={shown(limit)}", expected, "Leave the key out where there is no limit.")


def load_budgets(path: str | PathLike[str]) -> dict[str, Budget]:
    """Rows of a TOML file, by name:

        [budget."vibration-64"]
        p99_us = 50
        size_bytes = 40_000

    Raises FormatError for a file that cannot be read, is not TOML, has no `budget` table, or has an unknown key in a
    row.
    """
    content = read_toml(path)
    rows = content.get("budget")
    if not isinstance(rows, dict):
        raise FormatError(
            "budgets file", f"{path} without such rows", EXPECTED, "Name each row's table [budget.<name>]."
        )
    return budget_rows(rows, str(path))


EXPECTED = 'a TOML file with rows such as [budget."name"] and p99_us = 50'


def read_toml(path: str | PathLike[str]) -> dict[str, Any]:
    """The content of a budgets file. Raises FormatError for a file that cannot be read or is not TOML."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    if not isinstance(path, (str, PathLike)):
        raise FormatError("budgets file", shown(path), "a path", "Pass the name of the file.")
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # no file, no UTF-8, no TOML, a path with a zero byte
        raise FormatError("budgets file", f"{path} ({error})", EXPECTED, "Correct the path or the file.") from error


def budget_rows(rows: Any, where: str) -> dict[str, Budget]:
    """Budgets of a table of rows. Raises FormatError for what is no table of tables, and as `Budget.from_mapping`."""
    if not isinstance(rows, dict) or not all(isinstance(row, dict) for row in rows.values()):
        raise FormatError(
            "budgets file", f"{where} without such rows", EXPECTED, "Name each row's table [budget.<name>]."
        )
    return {name: Budget.from_mapping(row, f'{where}, row "{name}"') for name, row in rows.items()}
