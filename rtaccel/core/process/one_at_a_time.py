"""What may run in one thread of a process at a time: torch.export and the tracing below it change settings of the process."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

_lock = threading.RLock()


def _renew() -> None:
    """In a child process, which has no other thread: one that held the lock before would never give it back."""
    global _lock
    _lock = threading.RLock()


os.register_at_fork(after_in_child=_renew)


def one_at_a_time(call: Callable[P, R]) -> Callable[P, R]:
    """The function, which waits where another thread is in such a one. The same thread may enter several."""

    @wraps(call)
    def waiting(*args: P.args, **kwargs: P.kwargs) -> R:
        with _lock:
            return call(*args, **kwargs)

    return waiting
