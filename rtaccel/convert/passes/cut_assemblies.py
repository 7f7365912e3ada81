"""A part of what a copy puts together, put together alone: what a decoder cuts off a transposed convolution is never made.

The elementwise calls behind it then reach the layers before it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtaccel.convert.frontend.nodes import Buffer, OpNode
from rtaccel.convert.passes.nested_parts import MAX_ELEMENTS, gathered, strided
from rtaccel.core.traits import Role
from rtaccel.kernels._common.strides import elements


def cut_assemblies(op_nodes: Sequence[OpNode], buffers: Mapping[str, Buffer], kept: set[str]) -> list[OpNode]:
    """kept: names of values that something outside the nodes reads; they stay."""
    readers = Counter(name for op_node in op_nodes for name in op_node.reads)
    whole: dict[str, OpNode] = {}
    found: list[OpNode] = []
    for op_node in op_nodes:
        if not op_node.is_fallback and op_node.operator.role is Role.GATHER:
            first = whole.get(op_node.reads[0])
            if first is not None and readers[op_node.reads[0]] == 1 and op_node.reads[0] not in kept:
                cut = _cut(first, op_node, buffers)
                if cut is not None:
                    found = [d for d in found if d is not first]
                    op_node = cut
        if not op_node.is_fallback and op_node.operator.role is Role.COPY:
            whole[op_node.writes[0]] = op_node
        found.append(op_node)
    return found


def _cut(first: OpNode, second: OpNode, buffers: Mapping[str, Buffer]) -> OpNode | None:
    """None where the second copy takes everything, or an element twice, or parts of what it leaves have no strides."""
    count, index = buffers[first.writes[0]].elements, gathered(second, buffers)
    if count > MAX_ELEMENTS or not 0 < len(index) < count:
        return None
    place = np.full(count, -1, dtype=np.int64)
    place[index] = np.arange(len(index))
    if np.count_nonzero(place >= 0) < len(index):
        return None
    parts: list[Any] = []
    for part in first.attrs["parts"]:
        cut = _part(part, place)
        if cut is None:
            return None
        parts.append(cut)
    attrs = {**first.attrs, "parts": tuple(parts)}
    return replace(first, node=second.node, name=second.name, writes=list(second.writes), attrs=attrs)


def _part(part: Any, place: NDArray[np.int64]) -> Any:
    """A part without the elements that have no place any more; None where the others are no box of it."""
    dims, (offset, *strides), target = part
    if not dims:
        return None
    moved = place[elements(dims, target)].reshape(dims)
    there = moved >= 0
    starts, sizes = [], []
    for d in range(len(dims)):
        along = np.flatnonzero(there.any(axis=tuple(e for e in range(len(dims)) if e != d)))
        if not len(along):
            return None
        starts.append(int(along[0]))
        sizes.append(int(along[-1]) - int(along[0]) + 1)
    box = moved[tuple(slice(start, start + size) for start, size in zip(starts, sizes))]
    if (box < 0).any():
        return None
    to = strided(box.reshape(-1), sizes)
    return None if to is None else (tuple(sizes), (offset + sum(a * s for a, s in zip(starts, strides)), *strides), to)
