"""Progress of what takes long, on a terminal: a bar of `rich`, where that is installed, after two seconds; else nothing."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any

AFTER_SECONDS = 2.0
"""What is done by then shows no bar."""


def watched_by_a_person() -> bool:
    """Whether stderr is a terminal, and can show a bar."""
    try:
        return sys.stderr is not None and sys.stderr.isatty() and importlib.util.find_spec("rich") is not None
    except (ValueError, AttributeError):  # stderr is closed, or no file
        return False


@contextmanager
def counted(title: str, total: int | None, unit: str = "steps") -> Iterator[Callable[[], None]]:
    """Gives a function to call after each step. total: how many there will be, None where that is not known."""
    if not watched_by_a_person():
        yield _nothing
        return
    bar = _Late(title, total, unit)
    try:
        yield bar.advance
    finally:
        bar.close()


def _nothing() -> None:
    pass


class _Late:
    """A bar that is made when the first step after two seconds ends."""

    def __init__(self, title: str, total: int | None, unit: str) -> None:
        self._title, self._total, self._unit = title, total, unit
        self._start, self._done = monotonic(), 0
        self._progress: Any = None
        self._task: Any = None

    def advance(self) -> None:
        self._done += 1
        if self._progress is None and monotonic() - self._start >= AFTER_SECONDS:
            self._open()
        if self._progress is not None:
            self._progress.update(self._task, completed=self._done)

    def _open(self) -> None:
        from rich.console import Console
        from rich.errors import LiveError
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:,}" + self._of()),
                   TimeElapsedColumn())  # fmt: skip
        progress = Progress(*columns, console=Console(stderr=True), transient=True)
        try:
            progress.start()
        except LiveError:  # another bar is on the screen: one at a time
            self._start = float("inf")
            return
        self._progress, self._task = progress, progress.add_task(self._title, total=self._total)

    def _of(self) -> str:
        return f" {self._unit}" if self._total is None else f" of {self._total:,} {self._unit}"

    def close(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
