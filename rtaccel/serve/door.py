"""A batcher's door for other processes of the machine: they put samples and take answers through shared memory."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtaccel import _native as native
from rtaccel.core.errors import FormatError, ShapeError, UnsupportedProblem
from rtaccel.serve.answer import FULL, SLICE_NS, STATUSES, Answer, taken_again, timeout_ns

GONE = -5
STOPPED, STREAM = -2, -4


@dataclass(frozen=True)
class DoorStats:
    """put: samples that came through and that the batcher took; refused: that it did not. answered: answers that were left for
    their clients. late_at_door: of those that were in time until the door, and late behind it. clients: that are there; died:
    that ended without a word. Samples of a client that died are stepped, and nobody takes their answers."""

    put: int
    refused: int
    answered: int
    late_at_door: int
    died: int
    clients: int


class Door:
    """What `StreamBatcher.share` gives; it closes when the batcher stops."""

    def __init__(self, batcher: Any, name: str, clients: int, places: int, side: Any) -> None:
        if not isinstance(name, str):
            raise FormatError("share", f"name={name!r}", "a text", 'Pass a name such as "robots".')
        for key, value, most in (("clients", clients, 1024), ("places", places, 1 << 20)):
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
                raise FormatError("share", f"{key}={value!r}", f"a whole number, 1 to {most}", "Pass one.")
        note = json.dumps({"x": [side.dtype, list(side.row)], "y": [side.output[0], list(side.output[1])]})
        try:
            self._native = native.BatcherDoor(batcher, name, clients, places, note)
        except ValueError as error:
            raise FormatError(
                "share", f"name={name!r}: {error}", "a free name of letters and digits, and a batcher with tickets",
                "Choose another name.",
            ) from None  # fmt: skip
        self.name = name

    def stats(self) -> DoorStats:
        """As of now."""
        return DoorStats(**self._native.stats())

    def close(self) -> None:
        """Gives the last answers, and tells the clients. The batcher does it when it stops."""
        self._native.close()


class DoorTicket:
    """As `answer.Ticket`, of a client."""

    __slots__ = ("_client", "_id", "stream")

    def __init__(self, client: BatcherClient, handle: int, stream: int) -> None:
        self._client, self._id, self.stream = client, handle, stream

    def result(self, timeout: float | None = None) -> Answer:
        """Waits for the Answer, for `timeout` seconds at most: then its status is "waiting", and it can be asked for again. y is
        a NumPy array.

        Raises UnsupportedProblem where it was taken before, and where the batcher's process has ended or stopped it: then the
        stream may have moved by the sample or not.
        """
        client, left = self._client, timeout_ns(timeout)
        if self._id == native.BATCHER_FULL:
            return FULL
        while (found := client._native.wait(self._id, int(min(left, SLICE_NS)))) == 0:
            left -= SLICE_NS
            if left <= 0:
                return Answer(None, "waiting", math.nan)
        if found == GONE:
            raise UnsupportedProblem("result", f"batcher {client.name!r}, which has ended", "one that runs",
                                     "Connect again when it is back.")  # fmt: skip
        got = client._native.take(self._id) if found > 0 else None
        if got is None:
            raise taken_again(self.stream)
        self._id = -7
        status, late, y = got
        if status == native.BATCHER_FULL:
            return FULL
        if status < 0:
            raise client.refusal(status, self.stream)
        return Answer(
            None if y is None else client._shaped(y), STATUSES[status], late / 1e3 if status < 2 else math.nan
        )

    @property
    def done(self) -> bool:
        """Whether `result` would not wait."""
        return self._id < 0 or self._client._native.wait(self._id, 0) != 0

    def __del__(self) -> None:
        if self._id >= 0:
            self._client._native.leave(self._id)


class BatcherClient:
    """Puts samples to a `StreamBatcher` of another process: what `StreamBatcher.connect` gives. It needs no torch.

    Several threads may use it. A process that is killed leaves each of its puts whole or not at all. `with` closes it.
    """

    def __init__(self, name: str) -> None:
        if not isinstance(name, str):
            raise FormatError("connect", f"name={name!r}", "a text", "Pass the name that was given to share.")
        try:
            self._native = native.BatcherDoorClient(name)
            note = json.loads(self._native.note())
            (self.dtype, row), (self._out, given) = note["x"], note["y"]
            self.row, self._given = tuple(row), tuple(given)
            self.streams, in_bytes, out_bytes, self.places = self._native.sizes()
            fits = in_bytes == self._bytes(self.dtype, self.row) and out_bytes == self._bytes(self._out, self._given)
        except (ValueError, KeyError, TypeError) as error:
            raise FormatError(
                "connect", f"name={name!r}: {error}", "the name of a batcher that is shared, and a free lane",
                "Call StreamBatcher.share(name) in the other process.",
            ) from None  # fmt: skip
        if not fits:
            raise FormatError("connect", f"name={name!r}, whose sizes do not fit its note", "a batcher of this version",
                              "Use one version on both sides.")  # fmt: skip
        self.name = name

    @staticmethod
    def _bytes(dtype: str, shape: Sequence[int]) -> int:
        return int(np.dtype(dtype).itemsize) * math.prod(shape)

    def put(self, stream: int, x: Any, stamp_ns: int | None = None) -> DoorTicket:
        """As `StreamBatcher.put`; x is anything that NumPy takes. Without a free place here the ticket's status is "full"."""
        if isinstance(stream, bool) or not isinstance(stream, int):
            raise self.refusal(STREAM, stream)
        return self.put_many([stream], self._fitted(x, self.row)[None], stamp_ns)[0]

    def put_many(self, streams: Any, x: Any, stamp_ns: Any = None) -> list[DoorTicket]:
        """As `StreamBatcher.put_many`: a ticket for each row."""
        chosen = np.ascontiguousarray(np.asarray(streams if len(streams) else np.empty(0, np.int64)))
        if chosen.dtype != np.int64 or chosen.ndim != 1:
            raise ShapeError("put_many", f"streams {chosen.dtype}{list(chosen.shape)}", "int64 [n]", "Convert it.")
        rows = self._fitted(x, (len(chosen), *self.row))
        stamps = None
        if stamp_ns is not None:
            stamps = np.ascontiguousarray(np.broadcast_to(np.asarray(stamp_ns), chosen.shape))
            if stamps.dtype != np.int64:
                raise FormatError(
                    "put", f"stamp_ns={stamp_ns!r:.60}", "nanoseconds of time.monotonic_ns()", "Pass int64."
                )
        if self._native.sizes()[3] == 0:
            raise UnsupportedProblem("put", "a client that was closed", "one that is not", "Connect again.")
        handles = self._native.put_many(chosen, rows.reshape(-1).view(np.uint8), stamps).tolist()
        numbers = chosen.tolist()
        tickets = [DoorTicket(self, handle, stream) for handle, stream in zip(handles, numbers)]
        for handle, stream in zip(handles, numbers):
            if handle < native.BATCHER_FULL:
                raise self.refusal(handle, stream)
        return tickets

    def refusal(self, code: int, stream: Any) -> Exception:
        """The error for a put that was not taken."""
        if code == STREAM:
            return ShapeError(
                "put", f"stream {stream!r}", f"a stream of 0..{self.streams - 1} that is there", "Name another one."
            )
        if code in (STOPPED, GONE):
            return UnsupportedProblem("put", f"batcher {self.name!r}, which has ended", "one that runs",
                                      "Connect again when it is back.")  # fmt: skip
        if code == -6:
            return UnsupportedProblem("put", "a client of the process that forked this one", "one of this process",
                                      "Connect after the fork.")  # fmt: skip
        return FormatError("put", "a stamp after now or below 0", "a time up to now, of time.monotonic_ns()",
                           "Stamp samples with that clock.")  # fmt: skip

    def _fitted(self, x: Any, shape: tuple[int, ...]) -> NDArray[Any]:
        made = np.asarray(x)
        if made.dtype == np.float64 and not hasattr(x, "dtype") and self.dtype == "float32":
            made = made.astype(np.float32)  # numbers of Python
        if made.dtype.name != self.dtype or made.shape != shape:
            got = f"{made.dtype}{list(made.shape)}"
            raise ShapeError("put", got, f"{self.dtype}{list(shape)}, as the model takes it", "Convert it.")
        return np.ascontiguousarray(made)

    def _shaped(self, y: bytes) -> NDArray[Any]:
        return np.frombuffer(y, self._out).reshape(self._given).copy()

    def close(self) -> None:
        """Answers that were not taken are lost."""
        self._native.close()

    def __enter__(self) -> BatcherClient:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
