"""Parts of a model that raise, where the model catches it and goes on.

torch keeps a stack of the modules that are being called. One that raises stays on it, and the next one that returns is then the
wrong one: torch.export ends in an error of its own.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

from torch import fx


@contextmanager
def raising_modules_leave() -> Iterator[None]:
    """Inside, a module that raises is off the stack of its tracer, in this thread."""
    tracers: Any = fx.Tracer
    kept: Any = tracers.call_module
    thread = threading.get_ident()

    @wraps(kept)
    def called(tracer: Any, *args: Any, **named: Any) -> Any:
        depth = len(tracer.module_stack)
        try:
            return kept(tracer, *args, **named)
        except Exception:
            while threading.get_ident() == thread and len(tracer.module_stack) > depth:
                tracer.module_stack.popitem(last=True)
            raise

    tracers.call_module = called
    try:
        yield
    finally:
        tracers.call_module = kept
