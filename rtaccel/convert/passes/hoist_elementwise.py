"""An elementwise call after a copy goes before it, into the layers whose results the copy puts together.

A transposed convolution is such a copy: its BatchNorm and activation then cost no pass of their own.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from rtaccel.convert.frontend.nodes import Buffer, OpNode
from rtaccel.core.traits import Role
from rtaccel.kernels._common.strides import elements


def hoist_elementwise(op_nodes: list[OpNode], buffers: Mapping[str, Buffer], kept: set[str]) -> list[OpNode]:
    """kept: names of values that something outside the nodes reads; they stay."""
    while _hoist_one(op_nodes, buffers, kept):
        pass
    return op_nodes


def _hoist_one(op_nodes: list[OpNode], buffers: Mapping[str, Buffer], kept: set[str]) -> bool:
    made = {name: op_node for op_node in op_nodes for name in op_node.writes}
    readers: dict[str, set[int]] = {}
    for index, op_node in enumerate(op_nodes):
        for name in op_node.reads:
            readers.setdefault(name, set()).add(index)
    for op_node in op_nodes:
        if op_node.is_fallback or op_node.operator.elementwise is None or len(op_node.reads) != 1 or op_node.adds:
            continue
        copy = made.get(op_node.reads[0])
        if copy is None or copy.is_fallback or copy.operator.role is not Role.COPY or copy.tensors:
            continue
        sources = {name: made.get(name) for name in copy.reads}
        alone = [name for name in (*sources, copy.writes[0]) if len(readers[name]) == 1 and name not in kept]
        if len(alone) != len(sources) + 1 or not all(_takes(source, op_node) for source in sources.values()):
            continue
        columns = _columns(copy, op_node, buffers)
        if columns is None:
            continue
        for name, source in sources.items():
            assert source is not None
            if op_node.affine is not None:
                assert source.operator.folding is not None and source.operator.folding.after is not None
                scale, shift = (table[columns[name]] for table in op_node.affine)
                source.tensors = source.operator.folding.after(source.tensors, scale, shift)
            source.attrs = {**source.attrs, **op_node.attrs}
        copy.writes = list(op_node.writes)
        op_nodes.remove(op_node)
        return True
    return False


def _takes(source: OpNode | None, op_node: OpNode) -> bool:
    if source is None or source.is_fallback or len(source.reads) != 1 or len(source.writes) != 1:
        return False
    folding = source.operator.folding
    if folding is None or not folding.activation or source.activation != "none":
        return False
    return op_node.affine is None or (folding.after is not None and not source.swapped)


def _columns(copy: OpNode, op_node: OpNode, buffers: Mapping[str, Buffer]) -> dict[str, Tensor] | None:
    """For each value that is copied, the column of the result that each of its own becomes; None where a column becomes several,
    or where the copy leaves something unfilled."""
    y = buffers[op_node.writes[0]]
    seen = np.zeros(y.elements, dtype=bool)
    found = {name: np.full(max(1, buffers[name].width), -1) for name in copy.reads}
    for name, (dims, source, target) in zip(copy.reads, copy.attrs["parts"]):
        at, columns = elements(dims, target), found[name]
        seen[at] = True
        if op_node.affine is None:
            continue
        own, becomes = elements(dims, source) % columns.size, at % y.width
        before = columns[own]  # of a part before it that reads the same value
        if ((before >= 0) & (before != becomes)).any():
            return None
        columns[own] = becomes
        if (columns[own] != becomes).any():
            return None
    if not seen.all() or (op_node.affine is not None and any((columns < 0).any() for columns in found.values())):
        return None
    return {name: torch.from_numpy(columns) for name, columns in found.items()}
