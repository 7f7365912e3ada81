"""The progress of a fit on stderr: a bar and the front as it grows where a person looks on, a line for each phase elsewhere."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rtaccel.cli._common.progress import say

if TYPE_CHECKING:
    from rtaccel.search.front import Candidate
    from rtaccel.search.planner import Told

ROWS = 8
"""Of the front, at most."""


@contextmanager
def shown(limit: str) -> Iterator[Told]:
    """Gives what `rt.fit_budget(progress=)` takes. limit: the drop permitted, in words."""
    if sys.stderr.isatty() and importlib.util.find_spec("rich") is not None:
        with _live(limit) as told:
            yield told
    else:
        yield _plain()


def _plain() -> Told:
    last = [""]

    def told(phase: str, done: int, of: int, front: Sequence[Candidate]) -> None:
        if done == of or phase != last[0]:
            last[0] = phase
            best = next((c for c in front if c.keeps and c.fits), None)
            found = "" if best is None else f", {len(front)} plans on the front, {best.name} keeps the drop"
            say(f"{phase}: {done:,} of {of:,}{found}")

    return told


@contextmanager
def _live(limit: str) -> Iterator[Told]:
    from rich.console import Console, Group
    from rich.live import Live
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    progress = Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    task = progress.add_task("export", total=1)
    with Live(progress, console=console, refresh_per_second=8, transient=True) as live:

        def told(phase: str, done: int, of: int, front: Sequence[Candidate]) -> None:
            progress.update(task, description=phase, total=of, completed=done)
            live.update(Group(progress, _front(front, limit)))

        yield told


def _front(front: Sequence[Candidate], limit: str) -> Any:
    from rich.table import Table

    table = Table(box=None, title=f"front (drop permitted: {limit})", title_justify="left")
    for head, side in (("us", "right"), ("drop", "right"), ("plan", "left")):
        table.add_column(head, justify=side)  # type: ignore[arg-type]
    step = max(1, -(-len(front) // ROWS))
    for c in front[::step]:
        us = "" if c.time_us == float("inf") else f"{c.time_us:.3g}"
        table.add_row(us, f"{c.drop:.3g}", c.name, style="green" if c.keeps and c.fits else "dim")
    return table
