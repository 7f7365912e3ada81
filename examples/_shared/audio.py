"""Recordings as samples in -1 .. 1, and a gap-free sequence of overlapping chunks from packets of any size."""

from __future__ import annotations

import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from examples._shared.outcome import Missing

F32 = NDArray[np.float32]


def recording(path: Path, rate: int) -> F32:
    """The first channel of a wave file of 16 bits. Raises Missing for another file or rate."""
    try:
        with wave.open(str(path)) as file:
            found, width, channels = file.getframerate(), file.getsampwidth(), file.getnchannels()
            content = file.readframes(file.getnframes())
    except (OSError, wave.Error, EOFError) as error:
        said = str(error) or "it ends within its head"
        raise Missing(f"{path} is no wave file that can be read ({said}): pass one of 16 bits at {rate} Hz.") from None
    if width != 2 or found != rate:
        raise Missing(f"{path} has {8 * width} bits at {found} Hz: convert it to 16 bits at {rate} Hz.")
    whole = content[: len(content) // (2 * channels) * 2 * channels]  # a recording that stopped within a sample
    return np.frombuffer(whole, dtype="<i2").reshape(-1, channels)[:, 0].astype(np.float32) / 32768


class Packets:
    """Samples in packets of any size, of 10 ms for example, to chunks: the newest `hop` samples with those before them.

    size: of a chunk. Before the first sample there are zeros.
    """

    def __init__(self, size: int, hop: int) -> None:
        self.size, self.hop = size, hop
        self._kept = np.zeros(size - hop, np.float32)

    def put(self, samples: F32) -> Iterator[F32]:
        """The chunks [size] that are complete with these samples, one after the other."""
        self._kept = np.concatenate([self._kept, np.asarray(samples, np.float32).reshape(-1)])
        while len(self._kept) >= self.size:
            chunk = self._kept[: self.size]
            self._kept = self._kept[self.hop :]
            yield chunk


def chunks(samples: F32, size: int, hop: int) -> F32:
    """All whole chunks of a recording, [n, size]."""
    padded = np.concatenate([np.zeros(size - hop, np.float32), samples])
    if len(padded) < size:
        return np.zeros((0, size), np.float32)
    return np.ascontiguousarray(np.lib.stride_tricks.sliding_window_view(padded, size)[::hop])
