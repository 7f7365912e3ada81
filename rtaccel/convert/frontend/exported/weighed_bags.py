"""Bags of rows that are weighed, or in which one row counts for nothing, as calls of simpler kinds.

Bags of one size are the rows of a matrix of indices: their rows are taken, weighed, and added up, as a model would write it. Bags
of other sizes stay the call that they are.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from contextlib import nullcontext
from math import inf
from typing import Any

import torch
from torch import Tensor, fx
from torch._guards import detect_fake_mode

from rtaccel.convert.aten import aten
from rtaccel.convert.frontend.decompose import insert_parts, traced
from rtaccel.convert.frontend.retrace import unlogged
from rtaccel.convert.frontend.view_ops import Arguments

_SUM, _MEAN, _MAX = range(3)


def bags_weighed(graph: fx.Graph, constants: Mapping[str, Tensor]) -> None:
    """In place."""
    for node in list(graph.nodes):
        if node.target is aten.embedding_bag.padding_idx:
            _write(graph, node, constants)
    graph.eliminate_dead_code()


def _write(graph: fx.Graph, node: fx.Node, constants: Mapping[str, Tensor]) -> None:
    given = Arguments(node)
    weights, padding, table = given["per_sample_weights"], given["padding_idx"], given["weight"]
    plain = weights is None and padding in (None, -1)
    readers = {user: user.args[1] for user in node.users}
    if plain or given["include_last_offset"] or any(at for user, at in readers.items() if user.users):
        return
    size, mode = _size(given["offsets"], given["indices"], constants), given["mode"]
    if size is None:
        return
    rows, row_weights = (_in_rows(part, size) for part in (given["indices"], weights))
    sources = [part for part in (table, rows, row_weights) if part is not None]
    left_out = None if padding is None else padding % table.meta["val"].shape[0]

    def call(table: Tensor, index: Tensor, weights: Tensor | None = None) -> Tensor:
        weighed = None if weights is None else weights.reshape(-1, size)
        return _joined(table, index.reshape(-1, size), weighed, left_out, mode)

    with graph.inserting_before(node):  # whose arguments are those of the function
        stand_in = graph.call_function(aten.embedding_bag.padding_idx, tuple(sources))
    values = [s.meta["val"] for s in sources]
    with unlogged(), detect_fake_mode(values) or nullcontext():
        found = traced(call, stand_in, sources)
    graph.erase_node(stand_in)
    results = insert_parts(found.graph, node, node, sources)
    assert results is not None, "bags have constants of their own"
    for reader in list(readers):
        assert reader.target is operator.getitem
        reader.replace_all_uses_with(results[0])
        graph.erase_node(reader)
    graph.erase_node(node)


def _joined(table: Tensor, index: Tensor, weights: Tensor | None, left_out: int | None, mode: int) -> Tensor:
    """table [rows, width], index and weights [bags, size] -> [bags, width]."""
    rows = torch.embedding(table, index)
    if weights is not None:
        rows = rows * weights.unsqueeze(-1)
    if left_out is None:
        return rows.sum(1)  # torch weighs sums alone
    counts = index != left_out
    if mode == _MAX:
        most = torch.where(counts.unsqueeze(-1), rows, -inf).amax(1)
        return torch.where(counts.any(1, True), most, 0.0)
    total = torch.where(counts.unsqueeze(-1), rows, 0.0).sum(1)
    return total / counts.float().sum(1, True).clamp(min=1.0) if mode == _MEAN else total


def _in_rows(node: Any, size: int) -> Any:
    """What a tensor was before it was made flat, where that has a row for each bag."""
    if isinstance(node, fx.Node) and node.target in (aten.reshape.default, aten.view.default):
        before, sizes = (
            Arguments(node)["self"],
            Arguments(node)["shape" if node.target is aten.reshape.default else "size"],
        )
        shape = before.meta["val"].shape
        if list(sizes) == [-1] and len(shape) == 2 and shape[1] == size:
            return before
    return node


def _size(offsets: fx.Node, indices: fx.Node, constants: Mapping[str, Tensor]) -> int | None:
    """How many rows each bag has; None where that is not known to be the same for all."""
    count = indices.meta["val"].shape[0]
    if offsets.target is aten.arange.start_step:
        given = Arguments(offsets)
        size, bags = given["step"], offsets.meta["val"].shape[0]
        whole = isinstance(size, int) and size > 0 and given["start"] == 0
        return size if whole and _hint(bags) * size == _hint(count) else None
    known = constants.get(offsets.name)
    if known is None or not known.numel() or not isinstance(count, int):
        return None
    size = count // known.numel()
    starts = known.reshape(-1).tolist()
    return size if size > 0 and size * len(starts) == count and starts == list(range(0, count, size)) else None


def _hint(size: Any) -> int:
    return size if isinstance(size, int) else int(size.node.hint)
