"""One row of the results: a call timed from the host, each call on its own."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

import rtaccel as rt
from rtaccel.core.errors import RtaccelError

Row = dict[str, Any]


class Clock:
    """How long the whole run may take: what would begin later is left out, in a row that says so."""

    def __init__(self, minutes: float) -> None:
        self.minutes, self._end = minutes, time.monotonic() + 60 * minutes

    @property
    def left_s(self) -> float:
        return max(self._end - time.monotonic(), 0.0)

    def late(self, name: str) -> Row | None:
        """The row of what is left out; None while there is time."""
        return None if self.left_s else {"name": name, "error": f"left out: {self.minutes:g} minutes are over"}


def timed(name: str, fn: Callable[[], object], seconds: float, **more: Any) -> Row:
    """Percentiles of calls for so many seconds; what cannot run here is a row with the reason."""
    try:
        lat = rt.measure(fn, (), seconds=seconds)
    except (RtaccelError, RuntimeError) as error:
        return {"name": name, "error": str(error).splitlines()[0], **more}
    return {
        "name": name, "p50_us": lat.p50_us, "p99_us": lat.p99_us, "p999_us": lat.p999_us, "max_us": lat.max_us,
        "calls": lat.n, **more,
    }  # fmt: skip


def synchronous(call: Callable[[], object]) -> Callable[[], None]:
    """The call, and the wait until the host can read its result."""

    def run() -> None:
        call()
        torch.cuda.synchronize()

    return run


def device_us(replay: Callable[[], object], rounds: int = 200) -> float:
    """Time of the card for one call of many, back to back."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    for _ in range(20):
        replay()
    start.record()
    for _ in range(rounds):
        replay()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) * 1000 / rounds
