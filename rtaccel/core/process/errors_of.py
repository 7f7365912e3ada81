"""Errors by the name of what the caller has called."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rtaccel.core.errors import RtaccelError


@contextmanager
def errors_of(op: str, inner: str) -> Iterator[None]:
    """Errors that `inner` raises inside name `op`. Also a decorator."""
    try:
        yield
    except RtaccelError as error:
        if error.op == inner:
            error.renamed(op)
        raise
