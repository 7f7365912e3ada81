"""Recording the values of a slot with their times, and putting them again, bit for bit."""

from __future__ import annotations

import io
import time
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rtaccel.core.errors import FormatError, UnsupportedProblem
from rtaccel.core.process import whole_file
from rtaccel.realtime.latest import DTYPES, Latest

VERSION = 1
POLL_S = 20e-6
DAMAGED = (
    OSError, ValueError, KeyError, EOFError, TypeError, RuntimeError, MemoryError, OverflowError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
"""What NumPy and zipfile raise for a file that is not whole; RuntimeError where a bit says that it is encrypted."""


def opened(path: str | Path) -> Any:
    """NumPy's archive. What is none is not offered to pickle, of which NumPy's own message speaks."""
    with open(path, "rb") as file:
        if file.read(4) != b"PK\3\4":
            raise ValueError("no .npz archive")
    return np.load(path, allow_pickle=False)


@dataclass(frozen=True)
class Recording:
    """Values of a slot. values: [n, *shape] in the slot's dtype (bfloat16 as uint16); seq, stamp_ns, put_ns: int64 [n].

    lost: values that were replaced before the recorder saw them.
    """

    values: Any
    seq: Any
    stamp_ns: Any
    put_ns: Any
    dtype: str

    @property
    def n(self) -> int:
        return len(self.seq)

    @property
    def lost(self) -> int:
        return int(self.seq[-1] - self.seq[0] + 1 - len(self.seq)) if len(self.seq) else 0

    @classmethod
    def of(
        cls,
        slot: Latest,
        seconds: float | None = None,
        count: int | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> Recording:
        """Reads a slot as it is written, for so long, or so many values. The slot may have a loop as its reader where it was made
        with readers="many". Raises FormatError where neither is given, and what `get` raises."""
        if seconds is None and count is None:
            raise FormatError("record", "no seconds and no count", "one of them", "Say how long.")
        end = None if seconds is None else time.monotonic() + seconds
        taker = Taker(slot)
        while (end is None or time.monotonic() < end) and (count is None or len(taker.values) < count) and not stop():
            if not taker.take():
                time.sleep(POLL_S)
        return taker.recording()

    def save(self, path: str | Path) -> None:
        """As an .npz file, without pickle, whole or not at all. Raises FormatError where it cannot be written."""
        file = io.BytesIO()
        np.savez(
            file,
            version=np.int64(VERSION),
            values=self.values,
            seq=self.seq,
            stamp_ns=self.stamp_ns,
            put_ns=self.put_ns,
            dtype=np.array(self.dtype),
        )
        whole_file.write("record", path, file.getvalue())

    @classmethod
    def load(cls, path: str | Path) -> Recording:
        """What `save` wrote. Raises FormatError for anything else."""
        try:
            with opened(path) as data:
                if int(data["version"]) != VERSION:
                    raise ValueError(f"version {int(data['version'])}")
                found = cls(data["values"], data["seq"], data["stamp_ns"], data["put_ns"], str(data["dtype"]))
        except DAMAGED as error:
            raise FormatError(
                "recording", f"{path}: {error}", "a file that `rtaccel loop record` wrote", "Record it again."
            ) from error
        if not found.is_whole:
            raise FormatError(
                "recording", f"{path}: arrays that do not belong together", "those of one recording", "Record it again."
            )
        return found

    @property
    def is_whole(self) -> bool:
        """Whether the arrays belong together."""
        numbers = (self.seq, self.stamp_ns, self.put_ns)
        lengths = {a.shape[:1] for a in (self.values, *numbers)}
        dtyped = self.dtype in DTYPES and self.values.dtype == np.dtype(DTYPES[self.dtype])
        return dtyped and len(lengths) == 1 and all(a.ndim == 1 and a.dtype.kind in "iu" for a in numbers)

    def replay(
        self,
        slot: Latest,
        speed: float = 1.0,
        stop: Callable[[], bool] = lambda: False,
        on_put: Callable[[int], None] = lambda index: None,
    ) -> int:
        """Puts the values again, in the same rhythm divided by `speed`, and gives how many were put.

        The values are the same bits, and so are the times between stamps at speed 1. speed: 0 puts without waiting, with
        stamps of now.
        Raises ShapeError for a slot of another shape or dtype.
        """
        if not np.isfinite(speed) or speed < 0:
            raise FormatError("replay", f"speed={speed}", "0 or more", "1 is as it was.")
        if slot.dtype != self.dtype or slot.shape != self.values.shape[1:]:
            raise UnsupportedProblem(
                "replay",
                f"{self.dtype}{list(self.values.shape[1:])}",
                f"{slot.dtype}{list(slot.shape)}, as the slot's",
                "Make a slot for the recording.",
            )
        start = time.monotonic_ns()
        values = _bits(self.values, self.dtype)
        for index in range(self.n):
            at = start + (int((self.put_ns[index] - self.put_ns[0]) / speed) if speed else 0)
            while (left := at - time.monotonic_ns()) > 0:
                time.sleep(max(left - 50_000, 0) * 1e-9)
                if stop():
                    return index
            if stop():
                return index
            before = int(self.stamp_ns[index] - self.put_ns[0])
            stamp = start + int(before / speed) if speed else time.monotonic_ns()
            slot.put(values[index], stamp_ns=max(stamp, 1))
            on_put(index)
        return self.n


class Taker:
    """Collects the values of a slot from now on."""

    def __init__(self, slot: Latest) -> None:
        self.slot = slot
        self.values: list[Any] = []
        self.numbers: list[tuple[int, int, int]] = []  # seq, stamp, put
        slot.get()  # what lies there already was before the recording

    def take(self) -> bool:
        """Whether there was a new one."""
        got = self.slot.get()
        if got.status != "new":
            return False
        self.values.append(np.array(got.value))
        self.numbers.append((got.seq, got.stamp_ns, got.put_ns))
        return True

    def recording(self) -> Recording:
        empty = np.empty((0, *self.slot.shape), DTYPES[self.slot.dtype])
        seq, stamp, put = np.array(self.numbers, dtype=np.int64).reshape(-1, 3).T
        return Recording(
            np.stack(self.values) if self.values else empty, seq.copy(), stamp.copy(), put.copy(), self.slot.dtype
        )


def _bits(values: Any, dtype: str) -> Any:
    """What a slot takes for the values."""
    if dtype != "bfloat16":
        return values
    import torch

    return torch.from_numpy(np.array(values)).view(torch.bfloat16)
