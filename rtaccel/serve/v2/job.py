"""A request that waits for its call."""

from __future__ import annotations

import asyncio

import numpy as np

from rtaccel.serve.v2.request import Request
from rtaccel.serve.v2.sequences import Track

Arrays = tuple[np.ndarray, ...]


class Job:
    """A request that waits."""

    __slots__ = ("arrived_ns", "deadline_ns", "future", "request", "rows", "track")

    def __init__(self, request: Request, rows: int, arrived_ns: int, future: asyncio.Future[Arrays]) -> None:
        self.request, self.rows, self.arrived_ns, self.future = request, rows, arrived_ns, future
        timeout = request.parameters.timeout_us
        self.deadline_ns = None if timeout is None else arrived_ns + timeout * 1000
        self.track: Track | None = None
