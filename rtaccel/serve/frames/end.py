"""The two ends of a frame: a writer and a reader, bound to their arrays once."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rtaccel import _native as native
from rtaccel.core.errors import FormatError, ShapeError
from rtaccel.measure.numbers import is_whole, shown
from rtaccel.serve.frames.refusal import FrameRefused
from rtaccel.serve.frames.wires import Wire, wire_of

KINDS = {"request": 1, "answer": 2}
NO_KEY = bytes(16)


class Head(NamedTuple):
    """What a frame says of itself. stamp_ns: of the sender's clock; an answer has that of its request."""

    kind: str
    status: int
    session: int
    sequence: int
    stamp_ns: int


def key_of(key: bytes | None) -> bytes:
    """16 bytes that both ends share; None: none. Raises FormatError for other lengths."""
    if key is None:
        return NO_KEY
    if not isinstance(key, (bytes, bytearray)) or len(key) != 16:
        got = f"{len(key)} bytes" if isinstance(key, (bytes, bytearray)) else type(key).__name__
        raise FormatError("frame", f"a key of {got}", "16 bytes", "Make one with secrets.token_bytes(16).")
    return bytes(key)


def new_session() -> int:
    """The number of a sender's start: it grows from start to start, as the system's clock does."""
    return time.time_ns()


class _End:
    """arrays: float32, int8 or int64 NumPy arrays, contiguous, read or written in place. model: the digest of the model, of which
    16 bytes travel. wire: of the float32 among them. key: 16 bytes that both ends share."""

    def __init__(
        self, kind: type, arrays: Sequence[Any], model: bytes, wire: str | Wire = "float32", key: bytes | None = None
    ) -> None:
        chosen = wire if isinstance(wire, Wire) else wire_of(wire)
        if not isinstance(model, bytes) or len(model) < 16:
            raise FormatError("frame", f"model={model!r}", "a digest of 16 bytes or more", "Pass Cut.digest.")
        for array in arrays:
            if not isinstance(array, np.ndarray) or not array.flags.c_contiguous or not array.size or not array.ndim:
                raise ShapeError("frame", _text(array), "contiguous NumPy arrays that are not empty", "Convert it.")
        self.arrays: tuple[NDArray[Any], ...] = tuple(arrays)
        self.wire, self._key = chosen, key_of(key)
        try:
            codes = [chosen.code_of(str(a.dtype)) for a in arrays]
            self._native = kind(list(arrays), codes, model[:16], self._key)
        except (ValueError, TypeError) as error:
            if isinstance(error, FormatError):
                raise
            raise ShapeError("frame", ", ".join(map(_text, arrays)), "arrays that fit a frame", f"{error}.") from None
        self.bytes: int = self._native.bytes()

    @property
    def native(self) -> Any:
        """The native side, for what reads and writes frames without Python."""
        return self._native


class Writer(_End):
    """Writes its arrays, as they are at the call, into frames; nothing is allocated.

    arrays: float32, int8 or int64 [rows, ...], contiguous.
    model: the digest of the model, 16 bytes or more.
    wire: "float32", "int8" or "int4", of the float32 among them.
    key: 16 bytes that both ends share, so that nobody else's frames are taken.

    Raises ShapeError and FormatError for what cannot be sent.

    Example:
        >>> import numpy as np
        >>> from rtaccel.serve.frames import Reader, Writer
        >>> x, y, model = np.ones((1, 4), np.float32), np.zeros((1, 4), np.float32), bytes(16)
        >>> writer, reader = Writer([x], model), Reader([y], model)
        >>> frame = bytearray(writer.bytes)
        >>> size = writer.write(frame, sequence=1)
        >>> reader.read(frame).sequence, float(y.sum())
        (1, 4.0)
    """

    def __init__(
        self, arrays: Sequence[Any], model: bytes, wire: str | Wire = "float32", key: bytes | None = None
    ) -> None:
        super().__init__(native.FrameWriter, arrays, model, wire, key)
        self.session = new_session()

    def write(
        self,
        out: Any,
        sequence: int,
        stamp_ns: int | None = None,
        kind: str = "request",
        status: int = 0,
        session: int | None = None,
    ) -> int:
        """Writes a frame into `out`, uint8 memory of `bytes` or more, and gives its bytes.

        stamp_ns: of this machine's clock; None: `time.monotonic_ns()` now. session: of the request, in an answer.

        Raises ShapeError where `out` is too small or no memory to write to, FormatError for numbers that a frame cannot hold.
        """
        stamp = time.monotonic_ns() if stamp_ns is None else stamp_ns
        by = self.session if session is None else session
        try:
            to = out if isinstance(out, np.ndarray) else np.frombuffer(out, np.uint8)
            size: int = self._native.write(to, KINDS.get(kind), status, by, sequence, stamp)
        except (TypeError, ValueError, BufferError) as error:
            _check_kind(kind)
            for name, value, least, most in (
                ("status", status, -(2**31), 2**31 - 1), ("session", by, 0, 2**64 - 1), ("sequence", sequence, 0, 2**64 - 1),
                ("stamp_ns", stamp, -(2**63), 2**63 - 1),
            ):  # fmt: skip
                if not is_whole(value, least, most):
                    expected = f"a whole number, {least} to {most}"
                    raise FormatError("frame", f"{name}={shown(value)}", expected, f"Change {name}.") from None
            raise ShapeError("frame", f"out: {error}", "uint8 memory to write to", "bytearray(Writer.bytes)") from None
        if size < 0:
            raise ShapeError("frame", f"out of {len(to)} bytes", f"{self.bytes} bytes", "Allocate Writer.bytes.")
        return size


class Reader(_End):
    """Reads frames into its arrays, and refuses all that are not the next ones of the same model. As Writer otherwise."""

    def __init__(
        self, arrays: Sequence[Any], model: bytes, wire: str | Wire = "float32", key: bytes | None = None
    ) -> None:
        super().__init__(native.FrameReader, arrays, model, wire, key)
        self.guard = native.FrameGuard()

    def read(
        self, frame: Any, size: int | None = None, kind: str = "request", session: int = 0, guard: Any = None
    ) -> Head:
        """Checks a frame and reads it into the arrays.

        frame: bytes, or anything with a buffer. size: how many of them are the frame; None: all.
        session: the only one that is taken, of answers to one's own requests; 0: any that is not older than the last.
        guard: what is remembered of the sender, `native.FrameGuard()`; None: the reader's own.

        Raises FrameRefused, with the arrays and the guard as before.
        """
        by = self.guard if guard is None else guard
        try:
            found = self._native.read(frame, len(frame) if size is None else size, KINDS.get(kind), session, by)
        except (TypeError, ValueError, BufferError):
            _check_kind(kind)
            if not is_whole(session, 0, 2**64 - 1):
                raise FormatError("frame", f"session={shown(session)}", "a session, or 0", "Change session.") from None
            check_frame("frame", frame, size)
            raise
        if found[0]:
            raise FrameRefused(found[0], f"{len(frame) if size is None else size} bytes")
        return Head(kind, *found[2:])


def parse(frame: Any, key: bytes | None = None) -> tuple[Head, bytes, list[tuple[int, tuple[int, ...], int]]]:
    """What a frame says of itself: (head, 16 bytes of the model's digest, [(wire, shape, bytes) of each tensor]). Raises
    FrameRefused for a damaged one."""
    code, kind, status, session, sequence, stamp, model, tensors = native.frame_parse(frame, key_of(key))
    if code:
        raise FrameRefused(code, f"{len(frame)} bytes")
    name = next(k for k, v in KINDS.items() if v == kind)
    return Head(name, status, session, sequence, stamp), model, tensors


def check_frame(op: str, frame: Any, size: int | None) -> None:
    """Raises ShapeError for what holds no frame, whatever is in it."""
    try:
        given = memoryview(frame)
    except TypeError:
        raise ShapeError(op, f"a frame of type {type(frame).__name__}", "bytes", "Pass what was received.") from None
    if not given.c_contiguous:
        raise ShapeError(op, "a frame with gaps between its bytes", "contiguous memory", "Copy it first.")
    if size is not None and not is_whole(size, 0, given.nbytes):
        raise ShapeError(op, f"size={shown(size)}", f"0 to {given.nbytes} bytes of the frame", "Leave size out.")


def _check_kind(kind: Any) -> None:
    if not isinstance(kind, str) or kind not in KINDS:
        raise FormatError("frame", f"kind={shown(kind)}", " or ".join(map(repr, KINDS)), "Change kind.")


def _text(array: Any) -> str:
    if isinstance(array, np.ndarray):
        return f"{array.dtype}{list(array.shape)}" + ("" if array.flags.c_contiguous else ", strided")
    return type(array).__name__
