"""The order of calls that share memory of a plan: its workspaces, its counters, the static buffers of its graph.

Two streams could run them at once. A call on another stream than the one before therefore waits, on the GPU, for what that stream
was given so far; on one stream nothing is added but a comparison.
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
    """Launches inside come after those of earlier calls, on whatever stream these were, in the order of the calls."""

    def __init__(self) -> None:
        import torch

        self._torch: Any = torch
        self._lock = threading.Lock()
        self._latest: int | None = None
        self._stream: torch.cuda.Stream | None = None

    def __enter__(self) -> None:
        self._lock.acquire()
        try:
            raw = self._torch._C._cuda_getCurrentRawStream(self._torch.cuda.current_device())
            if raw != self._latest:
                self._follow(raw)
        except BaseException:
            self._lock.release()
            raise

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def _follow(self, raw: int) -> None:
        cuda = self._torch.cuda
        current = cuda.current_stream()
        # Inside a capture nothing may wait for a stream outside it. Whoever replays that graph orders it.
        if self._stream is not None and not cuda.is_current_stream_capturing():
            current.wait_stream(self._stream)
        self._latest, self._stream = raw, current
