"""Values walked line by line: where the elements of each line of an operand lie.

An iteration over `dims` has its first `kept` dimensions as lines and the others along a line. For most operands the place of an
element is that of its line and that along the line added up, so two short tables say it. An operand whose lines cross the
rows of its value is read by a table of all its elements.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from rtaccel.core.errors import ShapeError
from rtaccel.kernels._common.strides import elements, limits

Place = tuple[int, ...]


def check_place(op: str, dims: Sequence[int], place: Place, size: int) -> None:
    """Raises ShapeError for a place outside of a value of `size` elements."""
    low, high = limits(dims, place) if len(place) == len(dims) + 1 and prod(dims) else (-1, 0)
    if low < 0 or high >= size:
        raise ShapeError(op, f"a place {place} over {tuple(dims)}", f"elements 0..{size - 1}", "Correct the stage.")


def tables(name: str, dims: Sequence[int], kept: int, place: Place, width: int) -> dict[str, Any]:
    """As kernels in C++ read them, attributes lines<name> and along<name>, or table<name>: elements of the dense value."""
    lines = elements(dims[:kept], place[: kept + 1])
    along = elements(dims[kept:], (0, *place[kept + 1 :]))
    lines, along = lines + along.min(), along - along.min()
    if (lines % width).max() + (along % width).max() < width:
        return {f"lines{name}": tuple(lines.tolist()), f"along{name}": tuple(along.tolist())}
    return {f"table{name}": tuple(elements(dims, place).tolist())}


def table_bytes(dims: Sequence[int], operands: int) -> int:
    """More than the tables of so many operands take in a plan."""
    return 4096 + 16 * operands * (prod(dims) + 64)


def read(x: Tensor, dims: Sequence[int], kept: int, place: Place) -> Tensor:
    """[M, lines, along] of x [M, ...]"""
    index = torch.from_numpy(elements(dims, place)).to(x.device)
    return x.reshape(x.shape[0], prod(x.shape[1:]))[:, index].reshape(x.shape[0], prod(dims[:kept]), prod(dims[kept:]))


def written(y: Tensor, dims: Sequence[int], place: Place, shape: Sequence[int]) -> Tensor:
    """[M, lines, along] put where the place says: [M, *shape]"""
    made = torch.zeros(y.shape[0], prod(shape), dtype=y.dtype, device=y.device)
    made[:, torch.from_numpy(elements(dims, place)).to(y.device)] = y.reshape(y.shape[0], prod(y.shape[1:]))
    return made.reshape(y.shape[0], *shape)
