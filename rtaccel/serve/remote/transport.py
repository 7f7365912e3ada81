"""What carries frames: bytes there, bytes back, nothing promised about order or arrival."""

from __future__ import annotations

from collections import deque
from typing import Any, Protocol

from rtaccel.serve.remote.endpoint import Endpoint


class Client(Protocol):
    """One end of a link."""

    most_bytes: int | None
    """Of a frame; None: no limit of the transport's own."""

    def send(self, frame: memoryview) -> None:
        """Sends a frame; it may be lost. The memory is the caller's again when this returns."""

    def receive(self, timeout_s: float) -> Any:
        """The next frame that came, as something with a buffer that is good until the next call; None after the time."""

    def close(self) -> None:
        """Gives back what it holds."""


class Inside:
    """An endpoint in this process: for tests, and to see what frames cost alone."""

    most_bytes = None

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._answers: deque[bytes] = deque(maxlen=64)

    def send(self, frame: memoryview) -> None:
        answer = self.endpoint.answer(frame, peer=id(self))
        if answer is not None:
            self._answers.append(answer)

    def receive(self, timeout_s: float) -> Any:
        return self._answers.popleft() if self._answers else None

    def close(self) -> None:
        self._answers.clear()
