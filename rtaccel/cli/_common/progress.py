"""Progress on stderr: a bar where a person looks on and `rich` is there, plain lines elsewhere."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LINES = 4
"""Plain lines for one bar."""

Advance = Callable[[str], None]
"""To be called after each step, with a word on it."""


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@contextmanager
def bar(title: str, total: int, unit: str = "steps") -> Iterator[Advance]:
    """Gives a function to call after each of `total` steps, with a note on that step (or "")."""
    if sys.stderr.isatty() and importlib.util.find_spec("rich") is not None:
        with _rich_bar(title, total) as advance:
            yield advance
    else:
        yield _plain(title, total, unit)


@contextmanager
def _rich_bar(title: str, total: int) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(title, total=total, note="")
        yield lambda note: progress.update(task, advance=1, note=note)


def _plain(title: str, total: int, unit: str) -> Advance:
    done = 0

    def advance(note: str) -> None:
        nonlocal done
        done += 1
        if done * LINES // total != (done - 1) * LINES // total:
            say(f"{title}: {done:,} of {total:,} {unit}" + (f", {note}" if note else ""))

    return advance
