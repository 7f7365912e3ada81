"""Heads that are put behind one another as samples: `torch.cat(q.split(d, -1), 0)`, and `y.split(b, 0)` on the way back.

Set transformers and others write it so. Joined by `cat`, nothing tells samples from heads. So it becomes the dimension of its own
that it is: `[heads, batch, ...]`, seen as one.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx

from rtaccel.convert.aten import aten
from rtaccel.convert.frontend.nodes import insert_call

_SPLITS = (aten.split.Tensor, aten.split_with_sizes.default, aten.chunk.default)


def parts_apart(graph: fx.Graph) -> None:
    """In place, where the samples are open."""
    for node in list(graph.nodes):
        if node.target is aten.cat.default and _dim(node, 1) == 0:
            _join(graph, node)
        elif node.target in _SPLITS and _dim(node, 2) == 0:
            _divide(graph, node)
    graph.eliminate_dead_code()


def _dim(node: fx.Node, at: int) -> int:
    given: Any = node.args[at] if len(node.args) > at else node.kwargs.get("dim", 0)
    first: Any = node.args[0]
    value = (first[0] if isinstance(first, (list, tuple)) else first).meta["val"]
    return int(given) % max(value.dim(), 1)


def _samples(value: Any) -> str:
    """The open number of samples that a tensor begins with, or nothing."""
    size = value.shape[0] if isinstance(value, Tensor) and value.dim() else 0
    return str(size) if isinstance(size, torch.SymInt) and size.node.expr.is_Symbol else ""


def _join(graph: fx.Graph, node: fx.Node) -> None:
    parts: Any = node.args[0]
    values = [part.meta["val"] for part in parts]
    if len(parts) < 2 or not _samples(values[0]) or len({str(tuple(v.shape)) for v in values}) != 1:
        return
    rest = list(values[0].shape[1:])
    with graph.inserting_before(node):
        apart = _of_one(graph, node, parts)
        if apart is None:
            rows = [insert_call(graph, node, aten.unsqueeze.default, (part, 0)) for part in parts]
            apart = insert_call(graph, node, aten.cat.default, (rows, 0))
        node.replace_all_uses_with(insert_call(graph, node, aten.reshape.default, (apart, [-1, *rest])))


def _of_one(graph: fx.Graph, node: fx.Node, parts: list[fx.Node]) -> fx.Node | None:
    """Parts of one tensor, in their order and of one size, as a view of it: [parts, batch, ...]."""
    split: Any = parts[0].args[0] if parts[0].target is operator.getitem else None
    if (
        split is None
        or split.target not in _SPLITS
        or [p.args for p in parts] != [(split, i) for i in range(len(parts))]
    ):
        return None
    whole, dim = split.args[0], _dim(split, 2)
    shape, size = list(whole.meta["val"].shape), parts[0].meta["val"].shape[dim]
    if not dim or shape[dim] != size * len(parts):
        return None
    seen = insert_call(graph, node, aten.unflatten.int, (whole, dim, [len(parts), size]))
    order = [dim, *(d for d in range(len(shape) + 1) if d != dim)]
    return insert_call(graph, node, aten.permute.default, (seen, order))


def _divide(graph: fx.Graph, node: fx.Node) -> None:
    """Parts of `batch` rows each, of a tensor that has them behind one another."""
    parts = list(node.users)
    if not parts or any(part.target is not operator.getitem for part in parts):
        return
    whole: Any = node.args[0]
    values = [part.meta["val"] for part in parts]
    batch, size = _samples(values[0]), whole.meta["val"].shape[0]
    if not batch or any(_samples(v) != batch for v in values) or not isinstance(size, torch.SymInt):
        return
    count = len(node.meta["val"])
    if str(size) != str(count * values[0].shape[0]) or count < 2:
        return
    with graph.inserting_before(node):
        seen = insert_call(graph, node, aten.view.default, (whole, [count, -1, *whole.meta["val"].shape[1:]]))
        for part in parts:
            part.replace_all_uses_with(insert_call(graph, part, aten.select.int, (seen, 0, part.args[1])))
