"""The past of a persistent stream while its kernel does not run: it lies in device memory then, and is saved as a native plan
saves it. A kernel leaves it there when it ends, and a start reads it, so no protocol is needed between the two."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from rtaccel.runtime.state.native_past import ENDING

Copying = Callable[[Callable[[], None]], None]
"""Runs what makes copies, and waits for them."""


class AtRest:
    """on_device: what the kernel reads and writes. A kernel says what of it is a past: `size`, `empty`, `_found`, `_put` and
    `_marked`."""

    def __init__(self, on_device: Tensor) -> None:
        self._on_device = on_device
        self._words = torch.zeros(on_device.shape, dtype=on_device.dtype, device="cpu")
        if on_device.is_cuda:
            self._words = self._words.pin_memory()

    @property
    def size(self) -> int:
        """Bytes of a past."""
        raise NotImplementedError

    def empty(self) -> bytes:
        """That of a stream before its first step."""
        raise NotImplementedError

    def _found(self, number: int) -> bytes:
        """The past in `_words` behind the message of this number."""
        raise NotImplementedError

    def _put(self, past: bytes) -> None:
        """Sets `_words`, which are zeros, to a past that was checked."""
        raise NotImplementedError

    def _marked(self, left: int) -> bool:
        """Whether a stream may stay marked for so many further steps; -1 for ever."""
        raise NotImplementedError

    def read(self, number: int, copying: Copying) -> bytes:
        """Behind the message of this number, when the kernel has ended."""
        copying(lambda: _copy(self._words, self._on_device))
        return self._found(number)

    def write(self, past: bytes | None, copying: Copying) -> None:
        """Before a start; None for a stream that begins anew. Raises ValueError for bytes that are no past of it."""
        if past is not None:
            self.check(past)
        self._words.zero_()
        if past is not None:
            self._put(past)
        copying(lambda: _copy(self._on_device, self._words))

    def check(self, past: bytes) -> None:
        """Raises ValueError for bytes that are no past of it."""
        if len(past) != self.size:
            raise ValueError(f"{self.size} bytes expected")
        left, behind, tick = ENDING.unpack(past[-ENDING.size :])
        if not self._marked(left):
            raise ValueError(f"a mark for {left} calls")
        if tick < 0 or tick < behind:
            raise ValueError(f"a stream after {tick - behind} steps")


def _copy(to: Tensor, source: Tensor) -> None:
    to.copy_(source, non_blocking=True)
