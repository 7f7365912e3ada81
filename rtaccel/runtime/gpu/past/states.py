"""The past of a persistent recurrent stack in Triton while its kernel does not run."""

from __future__ import annotations

import torch
from torch import Tensor

from rtaccel.runtime.gpu.past.at_rest import AtRest
from rtaccel.runtime.state.native_past import ENDING, loaded, row_bytes, saved

FOREVER = -1
"""For how long a stream stays marked behind a NaN."""


class StackStates(AtRest):
    """past: float32 on the device, what the kernel left, what it begins with, and a number that is not 0 where the stream is
    corrupted; rows of units, h of each layer and then c of an LSTM."""

    def __init__(self, past: Tensor, units: int) -> None:
        super().__init__(past)
        self._units, self._numbers = units, (past.numel() - 1) // 2

    @property
    def _rows(self) -> int:
        return self._numbers // self._units

    @property
    def size(self) -> int:
        return row_bytes(self._units, torch.float32) * self._rows + ENDING.size

    def empty(self) -> bytes:
        return self._saved(torch.zeros(self._numbers, device="cpu"), 0)

    def _saved(self, numbers: Tensor, left: int) -> bytes:
        return saved(numbers.view(self._rows, self._units)) + ENDING.pack(left, 0, 0)

    def _found(self, number: int) -> bytes:
        numbers = self._words[: self._numbers]
        corrupted = not bool(torch.isfinite(numbers).all())
        return self._saved(torch.zeros_like(numbers) if corrupted else numbers, FOREVER if corrupted else 0)

    def _put(self, past: bytes) -> None:
        """What was left, too: a kernel that ends without a time step leaves it as it was."""
        numbers = loaded(past[: -ENDING.size], self._rows, self._units, torch.float32).reshape(-1)
        left, _, _ = ENDING.unpack(past[-ENDING.size :])
        corrupted = left != 0 or not bool(torch.isfinite(numbers).all())
        kept, begins = self._words[: self._numbers], self._words[self._numbers : 2 * self._numbers]
        kept.copy_(torch.full_like(numbers, float("nan")) if corrupted else numbers)
        begins.copy_(torch.zeros_like(numbers) if corrupted else numbers)
        self._words[-1] = float(corrupted)

    def _marked(self, left: int) -> bool:
        return left in (0, FOREVER)
