"""A copy that brings the columns of a layer into another order, or keeps some of them, is that order of its weights.

Channels are shuffled so after grouped convolutions, and the parts of a joined projection sorted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np

from rtaccel.convert.frontend.nodes import Buffer, OpNode
from rtaccel.core.traits import Role


def turn_columns(op_nodes: list[OpNode], buffers: Mapping[str, Buffer], kept: set[str]) -> list[OpNode]:
    """The same nodes without such copies. kept: names that are read from outside."""
    readers = Counter(name for op_node in op_nodes for name in op_node.reads)
    makers = {name: op_node for op_node in op_nodes for name in op_node.writes}
    gone: set[int] = set()
    for copy in op_nodes:
        layer = makers.get(copy.reads[0]) if copy.reads else None
        if layer is None or readers[copy.reads[0]] != 1 or copy.reads[0] in kept or not _is_layer(layer):
            continue
        order = _order(copy, buffers)
        folding = layer.operator.folding
        made = folding.columns(layer, order) if order is not None and folding is not None and folding.columns else None
        if made is None:
            continue
        layer.tensors, layer.attrs = made
        layer.writes = list(copy.writes)
        makers[copy.writes[0]] = layer
        gone.add(id(copy))
    return [op_node for op_node in op_nodes if id(op_node) not in gone]


def _is_layer(op_node: OpNode) -> bool:
    one = len(op_node.reads) == len(op_node.writes) == 1
    return not op_node.is_fallback and one and not op_node.swapped and op_node.quant is None


def _order(copy: OpNode, buffers: Mapping[str, Buffer]) -> list[int] | None:
    """Of each row of a copy, the columns of the same row of its input; None where it is something else."""
    index = copy.attrs.get("index")
    if copy.is_fallback or copy.operator.role is not Role.GATHER or index is None:
        return None
    x, y = buffers[copy.reads[0]], buffers[copy.writes[0]]
    if not x.width or not y.width or x.steps != y.steps:
        return None
    table = np.asarray(index).reshape(y.steps, y.width) - np.arange(x.steps)[:, None] * x.width
    order = table[0]
    if not (table == order).all() or order.min() < 0 or order.max() >= x.width or len(set(order.tolist())) < len(order):
        return None
    return [int(i) for i in order]
