"""The past of streams in the bytes of a native plan: each state with its rows filled up, and whole numbers behind them."""

from __future__ import annotations

import struct

import torch
from torch import Tensor

ROW = 64
"""A saved row is a whole number of so many bytes, as in the native core."""

ENDING = struct.Struct("<qqq")
"""Of one stream: how long it stays marked, how many steps it is behind, the tick."""


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
