"""The order of calls that share memory of a plan: its workspaces, its counters, the static buffers of its graph.

Two streams could run them at once. A call on another stream than the one before therefore waits, on the GPU, for what that stream
was given so far; on one stream nothing is added but a comparison. A stream of somebody else's, CuPy's say, may be gone by then:
behind each call on one an event is recorded, and that is waited for.

A plan is of the GPU that was the current one when it was made. A call where another one is current runs on that of the plan.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

Order = AbstractContextManager[object]
"""`with order:` launches what shares memory. Calls of one plan have one order."""

NO_ORDER: Order = nullcontext()
"""Of a plan whose calls run where they are made."""


def current_index(device: str) -> int:
    """Which of several GPUs is the current one, as `Tensor.get_device` says it: -1 for tensors of the CPU, and where kernels are
    only built."""
    if device != "cuda":
        return -1
    import torch

    return torch.cuda.current_device() if torch.cuda.is_available() else -1


@contextmanager
def on_gpu_of(tensor: torch.Tensor) -> Iterator[None]:
    """Its GPU is the current one inside; nothing for a tensor of the CPU."""
    index = tensor.get_device()
    if index < 0:
        yield
        return
    import torch

    before = torch.cuda.current_device()
    torch.cuda.set_device(index)
    try:
        yield
    finally:
        torch.cuda.set_device(before)


class StreamOrder(Order):
    """Launches inside come after those of earlier calls, on whatever stream these were, in the order of the calls. A thread may
    be inside several times."""

    def __init__(self) -> None:
        import torch

        self._torch: Any = torch
        self._index = current_index("cuda")
        self._back: list[int] = []
        self._lock = threading.RLock()
        self._latest: int | None = None
        self._stream: torch.cuda.Stream | None = None
        self._foreign: torch.cuda.Stream | None = None
        self._event: torch.cuda.Event | None = None

    def __enter__(self) -> None:
        self._lock.acquire()
        try:
            current = self._torch.cuda.current_device()
            if current != self._index:
                self._torch.cuda.set_device(self._index)
            self._back.append(current)
            try:
                raw = self._torch._C._cuda_getCurrentRawStream(self._index)
                if raw != self._latest or self._foreign is not None:
                    self._follow(raw)
            except BaseException:
                self._return()
                raise
        except BaseException:
            self._lock.release()
            raise

    def __exit__(self, *_: object) -> None:
        try:
            if self._foreign is not None and not self._torch.cuda.is_current_stream_capturing():
                self._event = self._torch.cuda.Event()
                self._event.record(self._foreign)
        finally:
            try:
                self._return()
            finally:
                self._lock.release()

    def _return(self) -> None:
        before = self._back.pop()
        if before != self._index:
            self._torch.cuda.set_device(before)

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
