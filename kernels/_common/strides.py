"""Where the elements of strided operands lie: from strides over a dense value to rows and columns of a stored one.

An operand of an iteration over `dims` has an offset and a stride for each dimension, in elements of its value as if that were
dense. A stored value has rows that are padded, so a stride that goes from row to row must be so many rows, and one inside a row
must stay inside. `resolve` splits dimensions until that holds for every operand. An operand for which no split does it is
read by a table of its elements.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import gcd, prod
from operator import mul

import numpy as np


@dataclass(frozen=True)
class Resolved:
    """dims after splitting. rows, columns: by operand, (offset, stride of each dimension). table: of an operand that has none
    of these, the element of a dense value at each step of the iteration."""

    dims: tuple[int, ...]
    rows: tuple[tuple[int, ...], ...]
    columns: tuple[tuple[int, ...], ...]
    tables: tuple[np.ndarray | None, ...]

    def strides(self) -> tuple[int, ...]:
        """As kernels in C++ read them: for each operand the pairs of rows and columns, the offset first."""
        return tuple(n for r, c in zip(self.rows, self.columns) for pair in zip(r, c) for n in pair)


def resolve(dims: Sequence[int], places: Sequence[tuple[int, ...]], widths: Sequence[int]) -> Resolved:
    """widths: by operand, columns of a row of its value."""
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
    rows, columns, tables = [], [], []
    for own, width, place in zip(strides, widths, places):
        fits = _fits(sizes, own, place[0], width)
        rows.append((place[0] // width, *(0 if s % width else s // width for s in own)))
        columns.append((place[0] % width, *(s if s % width else 0 for s in own)))
        tables.append(None if fits else elements(dims, place))
    return Resolved(tuple(sizes), tuple(rows), tuple(columns), tuple(tables))


def resolve_dense(dims: Sequence[int], places: Sequence[tuple[int, ...]], widths: Sequence[int]) -> Resolved:
    """The same where the last operand is the result, dense and in the order of `dims`, which has no table."""
    found = resolve(dims, places, widths)
    if found.tables[-1] is None:
        return found
    # Its rows are no part of the iteration: element by element of its rows, and a table for every other operand.
    steps, width, others = prod(dims) // widths[-1], widths[-1], places[:-1]
    rows = (*((0, 0, 0) for _ in others), (0, 1, 0))
    columns = (*((0, 0, 0) for _ in others), (0, 0, 1))
    return Resolved((steps, width), rows, columns, (*(elements(dims, p) for p in others), None))


def dense(dims: Sequence[int]) -> tuple[int, ...]:
    """The place of a dense value in the order of the iteration."""
    return (0, *(prod(dims[i + 1 :]) for i in range(len(dims))))


def limits(dims: Sequence[int], place: tuple[int, ...]) -> tuple[int, int]:
    """The lowest and the highest element that is read."""
    low = place[0] + sum(min(0, (n - 1) * s) for n, s in zip(dims, place[1:]))
    return low, place[0] + sum(max(0, (n - 1) * s) for n, s in zip(dims, place[1:]))


def elements(dims: Sequence[int], place: tuple[int, ...]) -> np.ndarray:
    """The element of a dense value that each step of the iteration reads, in order."""
    found = np.full((1,), place[0], dtype=np.int64)
    for size, stride in zip(dims, place[1:]):
        found = (found[:, None] + np.arange(size, dtype=np.int64) * stride).reshape(-1)
    return found


def common_sizes(lists: Iterable[Sequence[int]]) -> tuple[int, ...] | None:
    """Sizes that each of these iterations, of as many elements in the same order, can be cut into; None where they cross."""
    ends = {1}
    for sizes in lists:
        ends.update(accumulate(reversed(sizes), mul))
    cuts = list(pairwise(sorted(ends)))
    if any(high % low for low, high in cuts):
        return None
    return tuple(high // low for low, high in reversed(cuts))


def recut(sizes: Sequence[int], strides: Sequence[int], wanted: Sequence[int]) -> tuple[int, ...]:
    """The strides of the same elements over `wanted`, which cuts the old sizes."""
    found: list[int] = []
    left, inner = list(zip(sizes, strides)), 1  # of the old dimension that is being cut, how much of it lies inside
    for size in reversed(wanted):
        while left and left[-1][0] == inner:
            left.pop()
            inner = 1
        found.insert(0, left[-1][1] * inner if left else 0)
        inner *= size
    return tuple(found)


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
