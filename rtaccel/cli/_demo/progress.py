"""The demo's progress: the loss of each step of training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rtaccel.cli._common import progress as _progress
from rtaccel.cli._common.progress import LINES, say

__all__ = ["LINES", "bar", "say"]


@contextmanager
def bar(title: str, total: int) -> Iterator[Callable[[float], None]]:
    """Gives a function to call after each of `total` steps, with the loss of that step."""
    with _progress.bar(title, total) as advance:
        yield lambda loss: advance(f"loss {loss:.3f}")
