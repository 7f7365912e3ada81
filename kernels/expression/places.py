"""Where the elements of strided operands lie: from strides over a dense value to rows and columns of a stored one.

An operand of an iteration over `dims` has an offset and a stride for each dimension, in elements of its value as if that were
dense. A stored value has rows that are padded, so a stride that goes from row to row must be so many rows, and one inside a row
must stay inside. `resolve` splits dimensions until that holds for every operand. An operand for which no split does it is
read by a table of its elements.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd, prod

import numpy as np

Place = "tuple[int, ...]"
"""(offset, stride of each dimension), in elements of a dense value."""


@dataclass(frozen=True)
class Resolved:
    """dims after splitting. rows, columns: by operand, (offset, stride of each dimension). table: of an operand that has none
    of these, the row and column of each element in order."""

    dims: tuple[int, ...]
    rows: tuple[tuple[int, ...], ...]
    columns: tuple[tuple[int, ...], ...]
    tables: tuple[np.ndarray | None, ...]


def resolve(dims: Sequence[int], places: Sequence[tuple[int, ...]], widths: Sequence[int]) -> Resolved:
    """widths: by operand, columns of a row. The last operand is the result, which is dense and in the order of `dims`."""
    sizes, strides = list(dims), [list(p[1:]) for p in places]
    for own, width in zip(strides, widths):
        d = 0
        while d < len(sizes):
            inner = _split(sizes[d], own[d], width)
            if inner is not None:
                outer = sizes[d] // inner
                for other in strides:
                    other.insert(d, other[d] * inner)
                sizes[d : d + 1] = [outer, inner]
            d += 1
    offsets = [p[0] for p in places]
    fits = [_fits(sizes, s, o, w) for s, o, w in zip(strides, offsets, widths)]
    if not fits[-1]:  # rows of the result are no part of the iteration: element by element of its rows
        steps, width = prod(dims) // widths[-1], widths[-1]
        flat = [elements(dims, p) for p in places]
        rows = [(0, 0, 0)] * (len(places) - 1) + [(0, 1, 0)]
        columns = [(0, 0, 0)] * (len(places) - 1) + [(0, 0, 1)]
        return Resolved((steps, width), tuple(rows), tuple(columns), (*flat[:-1], None))
    found_rows, found_columns, found_tables = [], [], []
    for own, offset, width, fit, place in zip(strides, offsets, widths, fits, places):
        rows_of = [0 if s % width else s // width for s in own]
        columns_of = [s if s % width else 0 for s in own]
        found_rows.append((offset // width, *rows_of))
        found_columns.append((offset % width, *columns_of))
        found_tables.append(None if fit else elements(dims, place))
    return Resolved(tuple(sizes), tuple(found_rows), tuple(found_columns), tuple(found_tables))


def elements(dims: Sequence[int], place: tuple[int, ...]) -> np.ndarray:
    """The element of a dense value that each step of the iteration reads, in order."""
    found = np.full((1,), place[0], dtype=np.int64)
    for size, stride in zip(dims, place[1:]):
        found = (found[:, None] + np.arange(size, dtype=np.int64) * stride).reshape(-1)
    return found


def _split(size: int, stride: int, width: int) -> int | None:
    """How many steps make whole rows, where the dimension crosses rows and that divides it."""
    if stride % width == 0 or size == 1:
        return None
    inner = width // gcd(stride, width)
    return inner if inner < size and size % inner == 0 else None


def _fits(sizes: Sequence[int], strides: Sequence[int], offset: int, width: int) -> bool:
    """Whether the strides that are no whole rows stay inside one."""
    low = high = offset % width
    for size, stride in zip(sizes, strides):
        if stride % width:
            low += min(0, (size - 1) * stride)
            high += max(0, (size - 1) * stride)
    return low >= 0 and high < width
