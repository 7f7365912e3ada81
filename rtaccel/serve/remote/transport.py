"""What carries frames: bytes there, bytes back, nothing promised about order or arrival."""

from __future__ import annotations

from collections import deque
from typing import Any, Protocol

import numpy as np

from rtaccel.serve.frames import FrameRefused, Reader, Writer
from rtaccel.serve.frames.end import Head
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


class Link:
    """A transport with both ends of its frames.

    `post(sequence, stamp_ns)` writes a frame and sends it. `take(timeout_s)` gives what came next: its Head with the arrays of
    the reader written, the reason for which it was refused, or None after the time.
    """

    def __init__(self, client: Client, writer: Writer, reader: Reader) -> None:
        self._client, self._writer, self._reader = client, writer, reader
        self._frame = np.zeros(writer.bytes, np.uint8)
        self._view = memoryview(self._frame.data)

    def post(self, sequence: int, stamp_ns: int) -> None:
        size = self._writer.write(self._frame, sequence, stamp_ns)
        self._client.send(self._view[:size])

    def take(self, timeout_s: float) -> Head | str | None:
        frame = self._client.receive(timeout_s)
        if frame is None:
            return None
        try:
            return self._reader.read(frame, kind="answer", session=self._writer.session)
        except FrameRefused as refused:
            return refused.reason


def linked(client: Client, writer: Writer, reader: Reader) -> Link:
    """A client's own link, where it has one that does more in native code, else one over its bytes."""
    own = getattr(client, "frame_link", None)
    return Link(client, writer, reader) if own is None else own(writer, reader)


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
