"""What every bridge does with a message: decode, put, count."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from rtaccel.core.errors import BackendUnavailable, FormatError, RtaccelError
from rtaccel.realtime.latest import DTYPES, Latest

Decode = Callable[[bytes], "tuple[Any, int | None]"]


class Bridge:
    """Puts messages into a slot.

    decode: from the bytes of a message to (value, stamp_ns or None for its arrival). Without it a message is the bytes of a
        value, or a stamp of 8 bytes (int64, `time.monotonic_ns()` of this machine) and then these.

    received, put, dropped (overtaken), refused: what became of the messages; last_error: why the last one was refused.
    """

    def __init__(self, slot: Latest, decode: Decode | None = None) -> None:
        self.slot = slot
        self._decode = decode or self._plain
        self.received = self.put = self.dropped = self.refused = 0
        self.last_error: Exception | None = None

    def take(self, payload: bytes) -> None:
        """One message. A bad one is counted, and the slot keeps its value."""
        try:
            value, stamp = self._decode(payload)
        except Exception as error:
            self.received += 1
            self.refused += 1
            self.last_error = error
            return
        self.take_value(value, stamp)

    def take_value(self, value: Any, stamp_ns: int | None) -> None:
        """The same of a message that is decoded."""
        self.received += 1
        try:
            if self.slot.put(value, stamp_ns=stamp_ns):
                self.put += 1
            else:
                self.dropped += 1
        except RtaccelError as error:
            self.refused += 1
            self.last_error = error

    def _plain(self, payload: bytes) -> tuple[Any, int | None]:
        kind = np.dtype(DTYPES[self.slot.dtype])
        bytes_ = kind.itemsize * int(np.prod(self.slot.shape, dtype=np.int64))
        if len(payload) not in (bytes_, bytes_ + 8):
            raise FormatError(
                "bridge",
                f"a message of {len(payload)} bytes",
                f"{bytes_}, or 8 of a stamp before them",
                "Pass decode=.",
            )
        stamp = int.from_bytes(payload[:8], "little", signed=True) if len(payload) > bytes_ else None
        value = np.frombuffer(payload, kind, offset=len(payload) - bytes_).reshape(self.slot.shape)
        if self.slot.dtype == "bfloat16":
            import torch

            return torch.from_numpy(value.copy()).view(torch.bfloat16), stamp
        return value, stamp


def monotonic_of(wall_ns: int) -> int:
    """A stamp of the wall clock (`time.time_ns()`) as one of `time.monotonic_ns()`, by their difference now."""
    return wall_ns - (time.time_ns() - time.monotonic_ns())


def library(module: str, package: str, hint: str) -> Any:
    """Raises BackendUnavailable without the package."""
    try:
        return importlib.import_module(module)
    except ImportError as missing:
        raise BackendUnavailable("bridge", f"no module {module}", f"the package {package}", hint) from missing
