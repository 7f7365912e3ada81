"""The past of streams in the bytes of a native plan: each state with its rows filled up, and whole numbers behind them."""

from __future__ import annotations

import struct

import torch
from torch import Tensor

ROW = 64
"""A saved row is a whole number of so many bytes, as in the native core."""

ENDING = struct.Struct("<qqq")
"""Of one stream: how long it stays marked, how many steps it is behind, the tick."""

STREAM = struct.Struct("<qq")
"""The same where a stream is saved by itself: how long it stays marked, the steps that it has made."""


def of_stream(state: bytes) -> bytes:
    """One stream by itself, of a plan that has no other."""
    left, behind, tick = ENDING.unpack(state[-ENDING.size :])
    return state[: -ENDING.size] + STREAM.pack(left, tick - behind)


def with_stream(stream: bytes) -> bytes:
    """The opposite. Raises ValueError for fewer bytes than any stream has."""
    if len(stream) < STREAM.size:
        raise ValueError(f"at least {STREAM.size} bytes expected")
    left, steps = STREAM.unpack(stream[-STREAM.size :])
    return stream[: -STREAM.size] + ENDING.pack(left, 0, steps)


def row_bytes(width: int, dtype: torch.dtype) -> int:
    return -(-width * dtype.itemsize // ROW) * ROW


def saved(state: Tensor) -> bytes:
    """[..., rows, width], each row filled up."""
    made = state.cpu().contiguous().view(torch.uint8)
    return torch.nn.functional.pad(made, (0, -made.shape[-1] % ROW)).numpy().tobytes()


def loaded(given: bytes, rows: int, width: int, dtype: torch.dtype) -> Tensor:
    """The opposite: [streams, rows, width]."""
    made = torch.frombuffer(bytearray(given), dtype=torch.uint8).view(-1, rows, row_bytes(width, dtype))
    return made[..., : width * dtype.itemsize].contiguous().view(dtype)
