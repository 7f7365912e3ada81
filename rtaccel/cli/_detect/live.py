"""`rtaccel detect --live`: values as they come, the newest on the right, alerts in red; `--follow` waits for further rows."""

from __future__ import annotations

import csv
import importlib.util
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from rtaccel.cli._detect import braille, table
from rtaccel.core.errors import BackendUnavailable
from rtaccel.measure.numbers import figure
from rtaccel.online.records import Records

HEIGHT, SHOWN_ALERTS, EVERY = 12, 6, 0.05
"""Lines of the plot; alerts below it; seconds between two pictures or two looks at a file that may grow."""


class Series:
    """What has come so far: times, values, scores, and the alerts as (time as the file has it, value, score). spent_ns: by the
    calls that scored."""

    def __init__(self, detector: Records) -> None:
        self.detector = detector
        self.spent_ns = 0
        self.stamps: list[str] = []
        self.seconds: list[float] = []
        self.values: list[float] = []
        self.scores: list[float] = []
        self.alerts: list[tuple[str, float, float]] = []

    def add(self, stamp: str, seconds: float | None, value: float) -> bool:
        """Scores one value; True for an alert. A missing value is NaN and has no score."""
        begin = time.perf_counter_ns()
        score = float(self.detector.score_one(value) if seconds is None else self.detector.score_one(value, seconds))
        self.spent_ns += time.perf_counter_ns() - begin
        self.stamps.append(stamp)
        self.seconds.append(math.nan if seconds is None else seconds)
        self.values.append(value)
        self.scores.append(score)
        if score >= 1:
            self.alerts.append((stamp, value, score))
        return score >= 1

    def table(self, known: table.Table) -> table.Table:
        """What was scored, as the file `known` was read from has it."""
        seconds = None if known.seconds is None else np.array(self.seconds)
        return replace(known, seconds=seconds, values=np.array(self.values), stamps=self.stamps)


def watch(path: Path, known: table.Table, detector: Records, follow: bool, rows_per_second: float) -> Series:
    """Shows the rows of `known`, then those that are appended to the file until Ctrl-C where `follow`. Without a terminal, or
    without rich, each alert is one line."""
    series = Series(detector)
    quiet = not sys.stdout.isatty() or importlib.util.find_spec("rich") is None
    if follow and not path.is_file():
        raise BackendUnavailable("detect", f"--follow of {path}", "a file that grows", "Leave --follow out.")
    show = Lines(series) if quiet else Picture(series, known)
    with show as update:
        try:
            for stamp, seconds, value in _rows(path, known, follow):
                update(series.add(stamp, seconds, value))
                if rows_per_second:
                    time.sleep(1 / rows_per_second)
        except KeyboardInterrupt:
            pass  # the report of what has come so far follows
    return series


def _rows(path: Path, known: table.Table, follow: bool) -> Iterator[tuple[str, float | None, float]]:
    for i, value in enumerate(known.values):
        yield known.stamps[i], None if known.seconds is None else float(known.seconds[i]), float(value)
    if follow:
        yield from appended(path, known)


def appended(path: Path, known: table.Table) -> Iterator[tuple[str, float | None, float]]:
    """Rows behind those of `known`, as they are written; a line without its end is waited for."""
    count = len(known.values)
    with path.open(encoding="utf-8-sig", newline="") as file:
        head = file.readline()
        delimiter = max(",;\t", key=head.count)
        names = [cell.strip() for cell in next(csv.reader([head], delimiter=delimiter))]
        value_at = names.index(known.value_name)
        time_at = None if known.time_name is None else names.index(known.time_name)
        times = table.Times(path, known.time_name or "")
        if time_at is not None:
            times.next(known.stamps[-1], count + 1)
        seen, row, partial = 0, 1, ""
        while True:
            piece = file.readline()
            if not piece:
                time.sleep(EVERY)
                continue
            partial += piece
            if not partial.endswith("\n"):
                continue
            cells, partial = next(csv.reader([partial.rstrip("\r\n")], delimiter=delimiter), []), ""
            row += 1
            if not cells:
                continue
            seen += 1
            if seen <= count:
                continue
            if len(cells) != len(names):
                raise table.wrong(
                    path, f"{len(cells)} cells in row {row}", f"{len(names)} as in its head", "Repair that row."
                )
            value = table.number(path, known.value_name, row, cells[value_at])
            if time_at is None:
                yield str(seen - 1), None, value
                continue
            yield cells[time_at].strip(), times.next(cells[time_at], row), value


class Lines:
    """A line for each alert."""

    def __init__(self, series: Series) -> None:
        self.series = series

    def __enter__(self) -> Callable[[bool], None]:
        return self._update

    def _update(self, alert: bool) -> None:
        if alert:
            stamp, value, score = self.series.alerts[-1]
            print(f"{stamp}  {figure(value)}  score {figure(score, 3)}", flush=True)

    def __exit__(self, *_: object) -> None:
        pass


class Picture:
    """The plot in a terminal, drawn anew at most twenty times a second."""

    def __init__(self, series: Series, known: table.Table) -> None:
        from rich.live import Live

        self.series, self.known = series, known
        self.live, self.drawn = Live(auto_refresh=False), 0.0

    def __enter__(self) -> Callable[[bool], None]:
        self.live.__enter__()
        return self._update

    def _update(self, alert: bool) -> None:
        now = time.monotonic()
        if now - self.drawn >= EVERY:
            self.drawn = now
            self.live.update(drawn(self.series, self.known.value_name, self.live.console.width), refresh=True)

    def __exit__(self, *error: Any) -> None:
        self.live.update(drawn(self.series, self.known.value_name, self.live.console.width), refresh=True)
        self.live.__exit__(*error)


def drawn(series: Series, name: str, console_width: int) -> Any:
    """The newest values as a plot, columns with an alert in red, and the newest alerts."""
    from rich.text import Text

    width = max(20, console_width - 2)
    text = Text(f"{name}  {len(series.values):,} values, {len(series.alerts):,} alerts\n")
    recent, scores = series.values[-2 * width :], series.scores[-2 * width :]
    red = {(i + 2 * width - len(recent)) // 2 for i, score in enumerate(scores) if score >= 1}
    for line in braille.lines(recent, width, HEIGHT):
        for alert, columns in groupby(range(width), red.__contains__):
            text.append("".join(line[c] for c in columns), style="bold red" if alert else "cyan")
        text.append("\n")
    known = [v for v in recent if math.isfinite(v)]
    if known:
        text.append(f"{figure(min(known))} to {figure(max(known))}, now {figure(series.values[-1])}\n", style="dim")
    for stamp, value, score in series.alerts[-SHOWN_ALERTS:]:
        text.append(f"{stamp}  {figure(value)}  score {figure(score, 3)}\n", style="red")
    return text
