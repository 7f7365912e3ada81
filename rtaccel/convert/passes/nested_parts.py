"""Parts of a part: what is written into a slice of a slice (`y[:, i][:, j] = ..`) is put where it ends up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtaccel.convert.frontend.nodes import Buffer, OpNode
from rtaccel.kernels._common.strides import elements

MAX_ELEMENTS = 1 << 22
"""Of a result whose parts are looked at one by one."""


def is_whole(dims: Sequence[int], place: Sequence[int], count: int) -> bool:
    """Whether a place is every element once."""
    offset, *strides = place
    size = 1
    for stride, n in sorted((stride, n) for stride, n in zip(strides, dims) if n != 1):
        if stride != size:
            return False
        size *= n
    return offset == 0 and size == count


def spliced(first: OpNode, second: OpNode, buffers: Mapping[str, Buffer]) -> OpNode | None:
    """`second`, whose last part is what `first` puts together, with the parts of that in its place. What `first` only takes over
    from where `second` puts it back is left out. None where strides do not say where all of it ends up."""
    dims, source, target = second.attrs["parts"][len(second.reads) - 1]
    count = buffers[first.writes[0]].elements
    if second.tensors or prod(dims) != count or count > MAX_ELEMENTS:
        return None
    moved = np.full(count, -1, dtype=np.int64)
    moved[elements(dims, source)] = elements(dims, target)
    if (moved < 0).any():
        return None
    parts: list[Any] = []
    covered = np.zeros(count, dtype=bool)
    for own, x, y in first.attrs["parts"]:
        inside = elements(own, y)
        covered[inside] = True
        place = strided(moved[inside], own)
        if place is None:
            return None
        parts.append((own, x, place))
    alone = len(second.reads) == 1
    if not covered.all() and not (alone and first.attrs["fill"] == second.attrs["fill"]):
        return None
    reads, computed = list(first.reads), parts[: len(first.reads)]
    if len(second.reads) == 2 and reads[0] == second.reads[0] and _put_back(computed[0], second, buffers):
        reads, computed = reads[1:], computed[1:]
    taken = (*second.attrs["parts"][: len(second.reads) - 1], *computed, *parts[len(first.reads) :])
    attrs = {**second.attrs, "parts": taken}
    return replace(second, reads=[*second.reads[:-1], *reads], attrs=attrs, tensors=dict(first.tensors))


def _put_back(part: Any, second: OpNode, buffers: Mapping[str, Buffer]) -> bool:
    """Whether a part of the value that `second` begins with goes where `second` puts that value itself."""
    dims, source, target = second.attrs["parts"][0]
    placed = np.full(buffers[second.reads[0]].elements, -1, dtype=np.int64)
    placed[elements(dims, source)] = elements(dims, target)
    own, x, y = part
    return bool(np.array_equal(placed[elements(own, x)], elements(own, y)))


def gathered(op_node: OpNode, buffers: Mapping[str, Buffer]) -> NDArray[np.int64]:
    """Of each element of what a node gathers, which element of its input it is."""
    if "index" in op_node.attrs:
        return np.asarray(op_node.attrs["index"], dtype=np.int64)
    width = buffers[op_node.writes[0]].width
    rows = np.asarray(op_node.attrs["rows"], dtype=np.int64)
    return (rows[:, None] * width + np.arange(width)).reshape(-1)


def strided(index: NDArray[np.int64], dims: Sequence[int]) -> tuple[int, ...] | None:
    """An offset and a stride for each dimension that give these elements; None where there are none."""
    grid: NDArray[np.int64] = index.reshape(dims if dims else (1,))
    offset = int(grid.flat[0])
    strides = [int(np.take(grid, 1, d).flat[0]) - offset if grid.shape[d] > 1 else 0 for d in range(grid.ndim)]
    place = (offset, *strides[: len(dims)])
    return place if not dims or np.array_equal(elements(dims, place), index) else None
