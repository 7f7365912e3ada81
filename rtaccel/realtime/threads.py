"""Native threads that run beside Python: no fork while one does, and all of them end before the interpreter."""

from __future__ import annotations

import atexit
import sys
import weakref
from typing import Any, Protocol

from rtaccel.core.errors import UnsupportedProblem


class Threaded(Protocol):
    """What has such a thread."""

    @property
    def running(self) -> bool:
        """Whether it runs."""

    def _end(self, timeout: float) -> None:
        """Asks it to end, and waits for so many seconds."""


_kept: weakref.WeakSet[Any] = weakref.WeakSet()
_hooked = False


def keep(thing: Threaded) -> None:
    """From now on its thread runs."""
    _kept.add(thing)
    _refuse_forks()


def forget(thing: Threaded) -> None:
    """Its thread has ended."""
    _kept.discard(thing)


def _refuse_forks() -> None:
    """A forked child would have the object without its thread. An audit hook alone can keep a fork from happening."""
    global _hooked
    if _hooked:
        return
    _hooked = True

    def hook(event: str, args: object) -> None:
        if event in ("os.fork", "os.forkpty"):
            for thing in list(_kept):
                if thing.running:
                    what = "loop" if type(thing).__name__ == "Loop" else "batcher"
                    raise UnsupportedProblem(
                        "fork",
                        f"a process with a running {what}",
                        f"no {what} that runs: a child has none of its threads",
                        f"Fork before the {what} starts, or use the start method 'spawn'.",
                    )

    sys.addaudithook(hook)


@atexit.register
def _stop_all() -> None:
    for thing in list(_kept):
        thing._end(2.0)
