"""Progress on stderr: a bar where a person looks on and `rich` is there, plain lines elsewhere."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LINES = 4
"""Plain lines for one bar."""


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@contextmanager
def bar(title: str, total: int) -> Iterator[Callable[[float], None]]:
    """Gives a function to call after each of `total` steps, with the loss of that step."""
    if sys.stderr.isatty() and importlib.util.find_spec("rich") is not None:
        with _rich_bar(title, total) as advance:
            yield advance
    else:
        yield _plain(title, total)


@contextmanager
def _rich_bar(title: str, total: int) -> Iterator[Callable[[float], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[loss]}"),
        TimeElapsedColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(title, total=total, loss="")
        yield lambda loss: progress.update(task, advance=1, loss=f"loss {loss:.3f}")


def _plain(title: str, total: int) -> Callable[[float], None]:
    done = 0

    def advance(loss: float) -> None:
        nonlocal done
        done += 1
        if done * LINES // total != (done - 1) * LINES // total:
            say(f"{title}: {done:,} of {total:,} steps, loss {loss:.3f}")

    return advance
