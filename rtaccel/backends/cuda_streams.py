"""The order of calls that share memory of a plan: its workspaces, its counters, the static buffers of its graph.

Two streams could run them at once. A call on another stream than the one before therefore waits, on the GPU, for what that stream
was given so far; on one stream nothing is added but a comparison. A stream of somebody else's, CuPy's say, may be gone by then:
behind each call on one an event is recorded, and that is waited for.
"""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

Order = AbstractContextManager[object]
"""`with order:` launches what shares memory. Calls of one plan have one order."""

NO_ORDER: Order = nullcontext()
"""Of a plan whose calls run where they are made."""


class StreamOrder(Order):
    """Launches inside come after those of earlier calls, on whatever stream these were, in the order of the calls. A thread may
    be inside several times."""

    def __init__(self) -> None:
        import torch

        self._torch: Any = torch
        self._lock = threading.RLock()
        self._latest: int | None = None
        self._stream: torch.cuda.Stream | None = None
        self._foreign: torch.cuda.Stream | None = None
        self._event: torch.cuda.Event | None = None

    def __enter__(self) -> None:
        self._lock.acquire()
        try:
            raw = self._torch._C._cuda_getCurrentRawStream(self._torch.cuda.current_device())
            if raw != self._latest or self._foreign is not None:
                self._follow(raw)
        except BaseException:
            self._lock.release()
            raise

    def __exit__(self, *_: object) -> None:
        try:
            if self._foreign is not None and not self._torch.cuda.is_current_stream_capturing():
                self._event = self._torch.cuda.Event()
                self._event.record(self._foreign)
        finally:
            self._lock.release()

    def _follow(self, raw: int) -> None:
        cuda = self._torch.cuda
        current = cuda.current_stream()
        # Inside a capture nothing may wait for a stream outside it. Whoever replays that graph orders it.
        if not cuda.is_current_stream_capturing():
            if self._event is not None:
                current.wait_event(self._event)
            elif self._stream is not None:
                current.wait_stream(self._stream)
        self._latest, self._stream, self._event = raw, current, None
        self._foreign = current if raw and current.stream_id == raw else None  # torch numbers its own in another way
