"""Two copies in a row as one: a copy that reads nothing but another one takes its elements from where that took them, and parts
that are laid over others lie in one result with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod

import numpy as np

from rtaccel.convert.frontend.nodes import Buffer, OpNode
from rtaccel.convert.passes.nested_parts import MAX_ELEMENTS, gathered, is_whole, spliced
from rtaccel.core.registry import with_role
from rtaccel.core.traits import Role
from rtaccel.kernels._common.strides import elements

MAX_PARTS = 512
"""Of one result."""
WORTH_A_COPY = 1024
"""Elements of a part from which on runs that are put together, and turned in a copy of their own, are faster than elements that
are put one by one: every second pixel of a plane, as a transposed convolution makes them."""


def compose_copies(op_nodes: Sequence[OpNode], buffers: Mapping[str, Buffer], kept: set[str]) -> list[OpNode]:
    """The same graph with one copy for every chain of them. kept: names that are read from outside."""
    readers = Counter(name for op_node in op_nodes for name in op_node.reads)
    copies: dict[str, OpNode] = {}
    found: list[OpNode] = []
    for op_node in op_nodes:
        if _is_copy(op_node) or _is_assembly(op_node):
            for _ in range(MAX_PARTS):
                lone = {name for name in op_node.reads if readers[name] == 1 and name not in kept and name in copies}
                source, joined = _one_of(op_node, {name: copies[name] for name in lone}, buffers)
                if source is None or joined is None:
                    break
                found = [d for d in found if d is not source]
                readers.subtract((*source.reads, *op_node.reads))
                readers.update(joined.reads)
                op_node = joined
            if _is_assembly(op_node) and _is_in_order(op_node, buffers):
                order = {"index": tuple(range(buffers[op_node.writes[0]].elements))}
                reads, gather = op_node.reads[:1], with_role(Role.GATHER).name
                readers.subtract(op_node.reads[1:])
                op_node = replace(op_node, op=gather, reads=reads, attrs=order)
            copies[op_node.writes[0]] = op_node
        found.append(op_node)
    return found


def _is_in_order(op_node: OpNode, buffers: Mapping[str, Buffer]) -> bool:
    """Whether all elements that are put together are the first ones of one value, in their order."""
    count = buffers[op_node.writes[0]].elements
    if not buffers[op_node.writes[0]].width or op_node.tensors or len({*op_node.reads}) != 1 or count > MAX_ELEMENTS:
        return False
    covered = np.zeros(count, dtype=bool)
    for dims, source, target in op_node.attrs["parts"]:
        if tuple(source) != tuple(target) and not np.array_equal(elements(dims, source), elements(dims, target)):
            return False
        covered[elements(dims, target)] = True
    return bool(covered.all())


def _one_of(
    op_node: OpNode, sources: Mapping[str, OpNode], buffers: Mapping[str, Buffer]
) -> tuple[OpNode | None, OpNode | None]:
    """A copy that this one reads, and both as one."""
    first = sources.get(op_node.reads[0]) if op_node.reads else None
    if first is not None and (joined := _composed(first, op_node, buffers)) is not None:
        return first, joined
    last = sources.get(op_node.reads[-1]) if op_node.reads else None
    if last is None or not _is_assembly(op_node) or not _is_assembly(last):
        return None, None
    if len(last.reads) + len(op_node.reads) > MAX_PARTS:
        return None, None
    return last, spliced(last, op_node, buffers)


def _composed(first: OpNode, second: OpNode, buffers: Mapping[str, Buffer]) -> OpNode | None:
    if _is_assembly(second):
        return None if _is_copy(first) else _laid_over(first, second, buffers)
    return _joined(first, second, buffers) if _is_copy(first) else _parts_turned(first, second, buffers)


def _is_copy(op_node: OpNode) -> bool:
    return not op_node.is_fallback and op_node.operator.role is Role.GATHER


def _is_assembly(op_node: OpNode) -> bool:
    return not op_node.is_fallback and op_node.operator.role is Role.COPY


def _joined(first: OpNode, second: OpNode, buffers: Mapping[str, Buffer]) -> OpNode:
    if "rows" in first.attrs and "rows" in second.attrs:
        attrs = {"rows": tuple(first.attrs["rows"][i] for i in second.attrs["rows"])}
    else:
        index = gathered(first, buffers)[gathered(second, buffers)]
        attrs = {"index": tuple(index.tolist())}
    return replace(second, reads=list(first.reads), attrs=attrs)


def _laid_over(first: OpNode, second: OpNode, buffers: Mapping[str, Buffer]) -> OpNode | None:
    """Parts over all of what others are put together to, as `y[:, t] = ..` is for each t. None where the first result is not
    taken as it lies, or its constants would come to lie over the later parts."""
    if first.tensors or len(first.reads) + len(second.reads) > MAX_PARTS:
        return None
    dims, source, target = second.attrs["parts"][0]
    elements = buffers[first.writes[0]].elements
    if source != target or elements != buffers[second.writes[0]].elements or not is_whole(dims, source, elements):
        return None
    parts = (*first.attrs["parts"], *second.attrs["parts"][1:])
    attrs = {**second.attrs, "parts": parts, "fill": first.attrs["fill"]}
    return replace(second, reads=[*first.reads, *second.reads[1:]], attrs=attrs)


def _parts_turned(first: OpNode, second: OpNode, buffers: Mapping[str, Buffer]) -> OpNode | None:
    """Parts that are put together and turned round then, put where they end up; None where the second copy does not turn all of
    them, or parts go over the ends of what it turns."""
    index = np.asarray(second.attrs.get("index", ()), dtype=np.int64)
    inner = int(index[1]) if len(index) > 1 else 0  # of rows of so many elements, which become columns
    if inner < 2 or len(index) % inner or len(index) != buffers[first.writes[0]].elements:
        return None
    outer = len(index) // inner
    if not np.array_equal(index, np.arange(len(index)).reshape(outer, inner).T.reshape(-1)):
        return None
    parts = []
    for dims, source, (offset, *strides) in first.attrs["parts"]:
        steps = [n - 1 for n in dims]
        low = high = offset % inner
        for n, stride in zip(steps, strides):
            if n and stride % inner:
                low, high = low + min(0, n * stride), high + max(0, n * stride)
        if low < 0 or high >= inner:
            return None
        turned = [s // inner if s % inner == 0 else s * outer for s in strides]
        if prod(dims) >= WORTH_A_COPY and (1, 1) in zip(source[1:], strides) and 1 not in turned:
            return None
        parts.append((dims, source, (offset % inner * outer + offset // inner, *turned)))
    made = replace(first, writes=list(second.writes), attrs={**first.attrs, "parts": tuple(parts)})
    return replace(made, node=second.node, name=second.name)
