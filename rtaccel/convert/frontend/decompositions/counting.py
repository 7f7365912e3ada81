"""Truth values that are counted: in float32, which is exact for as many as a sum here has, and several times as fast as in int64.

torch sums truth values in int64, and gives `one_hot` in int64. A processor without a conversion from float32 to int64 takes
nanoseconds for each.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from rtaccel.convert.aten import aten
from rtaccel.convert.frontend.nodes import insert_call

CASTS = (aten._to_copy.default, aten.to.dtype, aten.to.dtype_layout, aten.type_as.default)
SUMS = (aten.sum.default, aten.sum.dim_IntList)
WHOLE = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
MOST = 2**24
"""Sums of zeros and ones that float32 holds exactly."""


def truth(node: Any) -> fx.Node | None:
    """The truth values that a node has, itself or as whole numbers; None for other numbers."""
    while isinstance(node, fx.Node):
        value = node.meta.get("val")
        if not isinstance(value, Tensor):
            return None
        if value.dtype == torch.bool:
            return node
        if node.target not in CASTS or value.dtype not in WHOLE:
            return None
        node = node.args[0]
    return None


def count_in_float(graph: fx.Graph) -> None:
    """Takes sums of truth values in float32, in place, and gives them as the dtype that they had. `one_hot` becomes the
    comparison that it is, so that its readers can take the truth values."""
    for node in list(graph.nodes):
        if node.target is aten.one_hot.default:
            _compare(graph, node)
            continue
        value = node.meta.get("val")
        if node.target not in SUMS or not isinstance(value, Tensor) or value.dtype != torch.int64:
            continue
        source = truth(node.args[0])
        if source is None or not _few(source.meta["val"], value):
            continue
        with graph.inserting_before(node):
            floats = insert_call(graph, node, aten._to_copy.default, (source,), {"dtype": torch.float32})
            kwargs = {k: v for k, v in node.kwargs.items() if k != "dtype"}
            total = insert_call(graph, node, node.target, (floats, *node.args[1:]), kwargs)
            whole = insert_call(graph, node, aten._to_copy.default, (total,), {"dtype": torch.int64})
        node.replace_all_uses_with(whole)
        graph.erase_node(node)


def _compare(graph: fx.Graph, node: fx.Node) -> None:
    index, classes = node.args[0], node.args[1] if len(node.args) > 1 else -1
    if not isinstance(index, fx.Node) or not isinstance(classes, int) or classes < 1:
        return
    device = index.meta["val"].device
    with graph.inserting_before(node):
        last = insert_call(graph, node, aten.unsqueeze.default, (index, -1), {})
        numbers = insert_call(graph, node, aten.arange.default, (classes,), {"dtype": torch.int64, "device": device})
        same = insert_call(graph, node, aten.eq.Tensor, (last, numbers), {})
        whole = insert_call(graph, node, aten._to_copy.default, (same,), {"dtype": torch.int64})
    node.replace_all_uses_with(whole)
    graph.erase_node(node)


def _few(given: Tensor, summed: Tensor) -> bool:
    """Whether a sum has few enough terms, whatever the batch is."""
    sizes = (*given.shape, *summed.shape)
    if any(isinstance(s, torch.SymInt) for s in sizes):
        fixed = [s for s in given.shape if not isinstance(s, torch.SymInt)]
        kept = sum(isinstance(s, torch.SymInt) for s in given.shape) == sum(
            isinstance(s, torch.SymInt) for s in summed.shape
        )
        return kept and torch.Size(fixed).numel() <= MOST
    return given.numel() <= MOST * max(summed.numel(), 1)
