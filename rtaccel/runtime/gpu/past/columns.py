"""States of streams in a graph, in the bytes of a native plan of the same program.

A native plan numbers the columns of a ring by its calls, and so does a graph, each stream by its own. A past that is saved counts
as one of no call, so its rings are turned. int8 numbers are bytes from 0 on in a native plan.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rtaccel.core.stage import Value
from rtaccel.runtime.state.native_past import loaded, row_bytes, saved

OFFSET = -128


def size_of(value: Value) -> int:
    """Bytes of one stream's."""
    return row_bytes(value.width, getattr(torch, value.dtype)) * value.steps


def to_bytes(state: Tensor, ticks: Tensor | None) -> bytes:
    """A state [streams, rows, width]. ticks int64 [streams, 1]: calls so far, of a ring; None for another state."""
    return saved(_moved(state if ticks is None else turned(state, -ticks.view(-1))))


def from_bytes(given: bytes, value: Value) -> Tensor:
    """The opposite, with rings as they were saved."""
    return _moved(loaded(given, value.steps, value.width, getattr(torch, value.dtype)))


def turned(ring: Tensor, by: Tensor) -> Tensor:
    """Rings [streams, rows, width] with each row `by` [streams] rows further on, around the end."""
    rows = ring.view(len(ring), -1, ring.shape[-1])
    at = (torch.arange(rows.shape[1], device=ring.device) - by.to(ring.device)[:, None]) % rows.shape[1]
    return rows.gather(1, at[:, :, None].expand(rows.shape)).view(ring.shape)


def _moved(state: Tensor) -> Tensor:
    return state ^ OFFSET if state.dtype == torch.int8 else state
