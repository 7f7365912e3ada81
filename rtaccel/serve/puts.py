"""What a put can come to, and why one is refused."""

from __future__ import annotations

from typing import Any, NoReturn

from rtaccel import _native as native
from rtaccel.core.errors import FormatError, ShapeError, UnsupportedProblem

PUTS = ("queued", "replacing", "replaced")
"""What a put comes to without tickets, by the code of the native side; -1 is "full"."""


def refuse(code: int, stream: Any, stamp: Any, streams: int) -> NoReturn:
    """Raises for a code of the native side below that of "full"."""
    if code == -4:
        raise ShapeError("put", f"stream {stream!r}", f"a number in 0..{streams - 1}", "Name one of this model.")
    if code == -2:
        raise UnsupportedProblem(
            "put", "a batcher that does not run", "one between start and stop", "Start it, or make a new one."
        )
    raise FormatError(
        "put", f"stamp_ns={stamp!r}", "a time up to now, of time.monotonic_ns()", "Stamp samples with that clock."
    )


def check_stream(stream: Any, streams: int) -> None:
    """Raises ShapeError for a stream that there is not."""
    if isinstance(stream, bool) or not isinstance(stream, int) or not 0 <= stream < streams:
        raise ShapeError("put", f"stream {stream!r}", f"a number in 0..{streams - 1}", "Name one of this model.")


def stamp_of(stamp: Any) -> int:
    """As the native side takes it. Raises FormatError for what is no time."""
    if stamp is None:
        return int(native.BATCHER_NOW)
    if isinstance(stamp, bool) or not isinstance(stamp, int) or not 0 <= stamp < 2**62:
        raise FormatError("put", f"stamp_ns={stamp!r}", "nanoseconds of time.monotonic_ns()", "Pass a whole number.")
    return stamp
