"""The past of a persistent stream of convolutions while its kernel does not run: rings in device memory, saved as a native plan
saves them.

A kernel numbers the columns of a ring by its messages, from 1 on at each start, and a native plan by its calls. A past that is
saved counts as that of no call: the newest column is in the last row. So both ways are a turn of each ring.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rtaccel.runtime.gpu.past.at_rest import AtRest
from rtaccel.runtime.state.native_past import ENDING, loaded, row_bytes, saved

OFFSET = -128
"""int8 numbers are bytes from 0 on in a native plan."""


class Rings(AtRest):
    """config: a kernels.conv.triton.persistent_config.KernelConfig. rings: its words on the device, with the age and the steps
    of a NaN behind them."""

    def __init__(self, config: Any, rings: Tensor) -> None:
        super().__init__(rings)
        self._config = config

    @property
    def _layers(self) -> list[tuple[Any, int, int, int]]:
        """Of each convolution, in the order of the stream's stages: (operation, first word, rows, bytes of a row)."""
        c = self._config
        found = zip(c.operations, c.rings, c.rows, c.padded_inputs)
        return [(o, first, rows, size) for o, first, rows, size in found if o.ring is not None]

    @property
    def size(self) -> int:
        """Bytes of a past."""
        return sum(_size(o) for o, *_ in self._layers) + ENDING.size

    def empty(self) -> bytes:
        """That of a stream before its first step."""
        held = b"".join(saved(_zeros(o) ^ OFFSET) for o, *_ in self._layers)
        return held + ENDING.pack(0, 0, 0)

    def _found(self, number: int) -> bytes:
        age, nonfinite = self._words[-2:].tolist()
        held = []
        for o, first, rows, size in self._layers:
            columns = _zeros(o)
            if rows:
                ring = self._words[first : first + rows * size // 4].view(torch.int8).view(rows, size)
                for back in range(min(age, o.reach)):  # of the newest column, and the ones before
                    columns[o.reach - back] = ring[(number - back) % rows, : o.inputs]
            held.append(saved(columns ^ OFFSET))
        return b"".join(held) + ENDING.pack(max(nonfinite - 1, 0), 0, 0)

    def _marked(self, left: int) -> bool:
        return 0 <= left <= self._config.memory

    def _put(self, past: bytes) -> None:
        left, behind, tick = ENDING.unpack(past[-ENDING.size :])
        at = 0
        for o, first, rows, size in self._layers:
            (columns,) = loaded(past[at : at + _size(o)], o.reach + 1, o.inputs, torch.int8)
            at += _size(o)
            if rows:
                ring = self._words[first : first + rows * size // 4].view(torch.int8).view(rows, size)
                for back in range(o.reach):  # what was the newest column counts as message 0
                    ring[-back % rows, : o.inputs] = columns[(tick - behind - 1 - back) % (o.reach + 1)] ^ OFFSET
        self._words[-2], self._words[-1] = self._config.memory + 1, left + 1 if left else 0


def _zeros(operation: Any) -> Tensor:
    """Columns before the first step: zero points."""
    zero = int(operation.low["x_zero_point"])
    return torch.full((operation.reach + 1, operation.inputs), zero, dtype=torch.int8, device="cpu")


def _size(operation: Any) -> int:
    """Bytes of its saved ring."""
    return row_bytes(int(operation.inputs), torch.int8) * int(operation.reach + 1)
