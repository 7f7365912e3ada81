"""A CSV with a column of times and one of values: which columns they are, and what is wrong with a file that has none."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rtaccel.core.errors import FormatError
from rtaccel.core.process import whole_file

F64 = NDArray[np.float64]

TIME_NAMES = ("timestamp", "time", "datetime", "date", "ts")
MISSING = ("", "nan", "na", "n/a", "null", "none", "-")
MIN_ROWS = 41
"""The first 40 values score 0."""

MOST = 1e300
"""A value of this size or more is missing, as for the detector."""

MAX_SECONDS = 1e11
"""A number beyond it is no time in seconds before the year 5138; it is one in milliseconds."""


@dataclass(frozen=True, eq=False)
class Table:
    """seconds: since 1970, or None without times. values: NaN where one is missing. stamps: times as the file has them."""

    file: str
    value_name: str
    time_name: str | None
    seconds: F64 | None
    values: F64
    stamps: list[str]

    @property
    def missing(self) -> int:
        return int(np.isnan(self.values).sum())

    @property
    def step(self) -> float:
        """The median step of time in seconds; NaN without times."""
        return math.nan if self.seconds is None else float(np.median(np.diff(self.seconds)))

    @property
    def gaps(self) -> int:
        """Steps of time that are longer than one and a half median ones."""
        return 0 if self.seconds is None else int((np.diff(self.seconds) > 1.5 * self.step).sum())


def wrong(path: Path, got: str, expected: str, next_step: str) -> FormatError:
    return FormatError("detect", f"{path.name} with {got}", expected, next_step)


def read(path: Path, time: str | None = None, value: str | None = None) -> Table:
    """path: a CSV with a head, cells separated by commas, semicolons or tabs. time, value: names of the columns; None finds
    them. Raises FormatError, with the line, for everything that is no such file."""
    head, rows, places = _cells(path)
    if not rows:
        raise wrong(path, "no row below its head", "one row for each value", "Write the values below the head.")
    time_at = _time_column(path, head, rows, time)
    value_at = _value_column(path, head, rows, value, time_at)
    seconds = None if time_at is None else times(path, head[time_at], [row[time_at] for row in rows], places)
    values = np.array([number(path, head[value_at], i, row[value_at]) for i, row in zip(places, rows)])
    known = int(np.isfinite(values).sum())
    if known < MIN_ROWS:
        raise wrong(
            path, f"{known} values in {head[value_at]!r}", f"at least {MIN_ROWS}", "Record for longer: 40 are warm-up."
        )
    stamps = [str(i) for i in range(len(rows))] if time_at is None else [row[time_at].strip() for row in rows]
    return Table(path.name, head[value_at], None if time_at is None else head[time_at], seconds, values, stamps)


def _cells(path: Path) -> tuple[list[str], list[list[str]], list[int]]:
    """The head, the rows below it, and their numbers, which count empty ones too."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (FileNotFoundError, IsADirectoryError) as error:
        raise FormatError("detect", f"no file {path}", "a CSV file", "Check the path.") from error
    except PermissionError as error:
        raise FormatError("detect", f"{path} without permission", "a file to read", "Change its mode.") from error
    except OSError as error:
        raise FormatError("detect", whole_file.said_of(path, error), "a file to read", "Check the path.") from error
    except UnicodeDecodeError as error:
        raise wrong(
            path, f"bytes that are no UTF-8 at {error.start}", "text in UTF-8", "Save it as CSV UTF-8."
        ) from error
    first = text.partition("\n")[0]
    if not first.strip():
        raise wrong(path, "nothing in its first line", "a head such as timestamp,value", "Write the names first.")
    delimiter = max(",;\t", key=first.count)
    try:
        lines = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
    except csv.Error as error:
        raise wrong(path, f"text that is no CSV ({error})", "comma-separated values", "Export it again.") from error
    head = [cell.strip() for cell in lines[0]]
    if all(_is_number(cell) for cell in head):
        raise wrong(path, f"numbers in its first line ({first.strip()[:40]})", "names there", "Add a head: time,value.")
    if len(set(head)) != len(head):
        twice = next(name for name in head if head.count(name) > 1)
        raise wrong(path, f"two columns {twice!r}", "different names", "Rename one.")
    rows, places = [], []
    for i, line in enumerate(lines[1:], 2):
        if not line:
            continue
        if len(line) != len(head):
            raise wrong(
                path, f"{len(line)} cells in row {i}", f"{len(head)} as in its head", "Repair or drop that row."
            )
        rows.append(line)
        places.append(i)
    return head, rows, places


def _column(path: Path, head: Sequence[str], name: str) -> int:
    if name not in head:
        raise wrong(path, f"no column {name!r}", f"one of {', '.join(head)}", "Pass one of these names.")
    return list(head).index(name)


def _time_column(path: Path, head: list[str], rows: list[list[str]], name: str | None) -> int | None:
    if name is not None:
        return _column(path, head, name)
    for wanted in TIME_NAMES:
        for i, column in enumerate(head):
            if column.lower() == wanted:
                return i
    dated = [i for i in range(len(head)) if not _is_number(rows[0][i]) and parse_time(rows[0][i]) is not None]
    return dated[0] if dated else None


def _value_column(path: Path, head: list[str], rows: list[list[str]], name: str | None, time_at: int | None) -> int:
    if name is not None:
        return _column(path, head, name)
    others = [i for i in range(len(head)) if i != time_at]
    numeric = [i for i in others if all(_is_number(r[i]) or _is_missing(r[i]) for r in rows[:50])]
    named = [i for i in others if head[i].lower() == "value"]
    if named or len(numeric) == 1:
        return (named or numeric)[0]
    if not numeric:
        names = ", ".join(head[i] for i in others) or "no other column"
        raise wrong(path, f"no column of numbers ({names})", "a column of values", "Add one, or pass --value NAME.")
    names = ", ".join(head[i] for i in numeric)
    raise wrong(path, f"several columns of numbers ({names})", "one of them", f"Pass --value {head[numeric[0]]}.")


def parse_time(text: str) -> float | None:
    """Seconds since 1970 of a number or of an ISO date with or without a time, on the clock that it shows; None for others."""
    found = _clock(text)
    return None if found is None else found[0]


def _clock(text: str) -> tuple[float, float | None] | None:
    """(`parse_time`, seconds that the clock is ahead of UTC, where it says so)."""
    text = text.strip()
    if _is_number(text):
        return float(text), None
    text = text.removesuffix("Z").removesuffix(" UTC")
    main, dot, fraction = text.partition(".")
    digits = len(fraction) - len(fraction.lstrip("0123456789"))
    zone = fraction[digits:]
    try:
        moment = datetime.fromisoformat(main + zone)
    except ValueError:
        return None
    ahead = moment.utcoffset()
    seconds = (moment.replace(tzinfo=None) - datetime(1970, 1, 1)) / timedelta(seconds=1)
    seconds += float(f"0.{fraction[:digits]}") if dot and digits else 0.0
    return seconds, None if ahead is None else ahead.total_seconds()


class Times:
    """A column of times, row after row. A clock that is set back may show an earlier time, where it says how far it is ahead
    of UTC."""

    def __init__(self, path: Path, name: str) -> None:
        self._path, self._name = path, name
        self._last = -math.inf

    def next(self, text: str, row: int) -> float:
        """`parse_time` of the cell in that row. Raises FormatError where it is no time, or before the one above it."""
        seconds, ahead = _clock(text) or (math.nan, None)
        if not math.isfinite(seconds):
            raise wrong(
                self._path,
                f"{text.strip()[:40]!r} as {self._name} in row {row}",
                "ISO dates such as 2024-03-01 12:30:00, or seconds since 1970",
                "Convert the column.",
            )
        if abs(seconds) > MAX_SECONDS:
            got = f"{text.strip()} as {self._name} in row {row}"
            raise wrong(self._path, got, "seconds since 1970", "Divide milliseconds by 1000.")
        if seconds - (ahead or 0.0) < self._last:
            got = f"a time in row {row} before the one above it"
            raise wrong(self._path, got, "rows in order", f"Sort it by {self._name}.")
        self._last = seconds - (ahead or 0.0)
        return seconds


def times(path: Path, name: str, texts: Sequence[str], rows: Sequence[int]) -> F64:
    """`Times` of all; rows: their numbers."""
    column = Times(path, name)
    return np.array([column.next(text, row) for text, row in zip(texts, rows)])


def _is_missing(text: str) -> bool:
    return text.strip().lower() in MISSING


def _float(text: str) -> float:
    """Raises ValueError for what only Python takes for a number."""
    if "_" in text:
        raise ValueError(text)
    return float(text)


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(_float(text))
    except ValueError:
        return False


def number(path: Path, name: str, row: int, text: str) -> float:
    if _is_missing(text):
        return math.nan
    try:
        value = _float(text)
    except ValueError as error:
        comma = "Write decimals with a point." if "," in text else "Clear the cell: an empty one is a missing value."
        raise wrong(
            path, f"{text.strip()[:40]!r} as {name} in row {row}", "a number or an empty cell", comma
        ) from error
    return value if abs(value) < MOST else math.nan
