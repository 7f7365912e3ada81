"""What a batcher gives for a sample: a ticket, and with it an answer."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from rtaccel.core.errors import FormatError, UnsupportedProblem

STATUSES = ("ok", "late", "replaced", "dropped", "refused")
"""By the code that the native side has for each (rta_batcher.h)."""

SLICE_NS = 50_000_000
"""Between two looks for signals while a ticket is waited for."""


class Answer(NamedTuple):
    """What has become of a sample.

    y: float32 [outputs], the output of the stream's step; None where it made none.
    status: "ok", answered in time; "late", answered after its deadline; "replaced", a newer sample of its stream was there before
        the batch left; "dropped", late before its batch left; "refused", the model takes no such number; "full", there was no
        place for it; "waiting", not answered within the timeout. The stream has moved in the first two cases alone.
    late_us: how long after its deadline it was answered, below 0 in time; NaN where it was not.
    """

    y: Any
    status: str
    late_us: float


FULL = Answer(None, "full", math.nan)


def taken_again(stream: int) -> UnsupportedProblem:
    return UnsupportedProblem(
        "result", f"a ticket of stream {stream} again", "one call that takes the answer", "Keep the answer."
    )


class Ticket:
    """For the answer of one sample. A ticket that is thrown away frees its place."""

    __slots__ = ("_id", "_native", "stream")

    def __init__(self, native: Any, ticket: int | None, stream: int) -> None:
        self._native, self._id, self.stream = native, ticket, stream

    def result(self, timeout: float | None = None) -> Answer:
        """Waits for the Answer, for `timeout` seconds at most: then its status is "waiting", and it can be asked for again.

        Raises UnsupportedProblem where it was taken before, FormatError for a timeout that is no number.
        """
        if self._id is None:
            self._id = -1
            return FULL
        left = timeout_ns(timeout)
        while (found := self._native.wait(self._id, int(min(left, SLICE_NS)))) == 0:
            left -= SLICE_NS
            if left <= 0:
                return Answer(None, "waiting", math.nan)
        got = self._native.take(self._id) if found > 0 else None
        if got is None:
            raise taken_again(self.stream)
        self._id = -1
        status, late, y = got
        return Answer(y, STATUSES[status], late / 1e3)

    @property
    def done(self) -> bool:
        """Whether `result` would not wait."""
        return self._id is None or self._native.wait(self._id, 0) != 0

    def __repr__(self) -> str:
        state = "full" if self._id is None else "taken" if self._id < 0 else "answered" if self.done else "waiting"
        return f"Ticket(stream {self.stream}, {state})"

    def __del__(self) -> None:
        if self._id is not None and self._id >= 0:
            self._native.leave(self._id)


def timeout_ns(timeout: Any) -> float:
    """Nanoseconds of a timeout in seconds; None: no end. Raises FormatError for anything else."""
    if timeout is None:
        return math.inf
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not timeout >= 0:
        raise FormatError("result", f"timeout={timeout!r}", "seconds, 0 or more, or None", "Pass a number.")
    return timeout * 1e9
