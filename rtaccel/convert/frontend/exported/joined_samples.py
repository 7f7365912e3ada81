"""Rows that are taken out of all samples joined: `x.view(b * n, c)[index + torch.arange(b) * n]`.

Networks of graphs and point clouds write it so, to take for each sample rows of itself. Joined, nothing tells which sample a row
is of. So it becomes what it says: `gather` of each sample, by the index without what counts the samples.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

from rtaccel.convert.aten import aten
from rtaccel.convert.frontend.decompose import insert_parts
from rtaccel.convert.frontend.graph.open_shapes import leaves_open
from rtaccel.convert.frontend.view_ops import Arguments

_COUNTS = (aten.arange.default, aten.arange.start, aten.arange.start_step)
_SEEN = (
    aten.view.default, aten.reshape.default, aten.unsqueeze.default, aten.alias.default, aten.contiguous.default,
    aten.expand.default, aten.flatten.using_ints, aten.clone.default, aten._unsafe_view.default, aten.view_as.default,
)  # fmt: skip


def gather_within_samples(graph: fx.Graph) -> None:
    """Takes such rows of each sample, in place."""
    for node in list(graph.nodes):
        found = _index_of(node)
        if found is None:
            continue
        joined, index = found
        x = _samples(joined)
        own = None if x is None else _within(index, x.meta["val"])
        if x is None or own is None:
            continue
        results = _taken(node, x, own)
        if results:
            node.replace_all_uses_with(results[0])
            graph.erase_node(node)


def _index_of(node: fx.Node) -> tuple[fx.Node, fx.Node] | None:
    """The rows and the one index of them, of a call that takes rows."""
    if node.op != "call_function":
        return None
    if node.target in (aten.index.Tensor, aten._unsafe_index.Tensor):
        given: Any = node.args[1]
        x, index = node.args[0], given[0]
        if any(other is not None for other in given[1:]):
            return None
    elif node.target is aten.index_select.default and node.args[1] == 0:
        x, index = node.args[0], node.args[2]
    elif node.target is aten.embedding.default:
        x, index = node.args[:2]
    else:
        return None
    whole = isinstance(index, fx.Node) and index.meta["val"].dtype in (torch.int64, torch.int32)
    return (x, index) if whole and isinstance(x, fx.Node) else None


def _samples(joined: fx.Node) -> fx.Node | None:
    """x [B, n, ...], of which a node is [B n, ...]; B an open batch."""
    node: Any = joined
    while node.target in _SEEN:
        node = node.args[0]
        value = node.meta.get("val")
        if not isinstance(value, Tensor) or value.dim() < 2:
            return None
        batch, n = value.shape[:2]
        if not isinstance(batch, torch.SymInt) or not isinstance(n, int):
            continue
        rows = joined.meta["val"].shape
        if str(rows[0]) == str(batch * n) and tuple(rows[1:]) == tuple(value.shape[2:]):
            return node
    return None


def _behind(node: Any) -> Any:
    """What a node shows in another shape."""
    while isinstance(node, fx.Node) and (node.target in _SEEN or _of_all(node)):
        node = node.args[0]
    return node


def _of_all(node: fx.Node) -> bool:
    """Whether a node is a slice [:]."""
    if node.target is not aten.slice.Tensor:
        return False
    given = Arguments(node)
    return given["start"] in (None, 0) and given["step"] == 1 and given["end"] in (None, sys.maxsize)


def _within(index: fx.Node, x: Tensor) -> fx.Node | None:
    """The index without n for each sample before its own; [B, ...]."""
    added = _behind(index)
    if not isinstance(added, fx.Node) or added.target is not aten.add.Tensor or added.kwargs:
        return None
    sides = added.args[:2]
    for own, before in (sides, sides[::-1]):
        if not isinstance(own, fx.Node) or not isinstance(before, fx.Node):
            continue
        shape, whole = own.meta["val"].shape, added.meta["val"].shape
        same = len(shape) == len(whole) and all(str(a) == str(b) for a, b in zip(shape, whole))
        if same and str(shape[0]) == str(x.shape[0]) and _counts_rows(before, x, len(shape)):
            return own
    return None


def _counts_rows(node: fx.Node, x: Tensor, rank: int) -> bool:
    """Whether a node is 0, n, 2 n, ... by sample, the same in all other dimensions."""
    shape = node.meta["val"].shape
    if len(shape) != rank or isinstance(shape[0], int) or any(size != 1 for size in shape[1:]):
        return False
    product, step = _behind(node), 1
    if isinstance(product, fx.Node) and product.target is aten.mul.Tensor:
        factors = [_behind(factor) for factor in product.args[:2]]
        product, step = factors if isinstance(factors[1], int) else factors[::-1]
        if not isinstance(step, int):
            return False
    if not isinstance(product, fx.Node) or product.target not in _COUNTS:
        return False
    given = Arguments(product)
    start = 0 if product.target is aten.arange.default else given["start"]
    every = given["step"] if product.target is aten.arange.start_step else 1
    end = given["end"].meta["val"] if isinstance(given["end"], fx.Node) else None
    return start == 0 and every * step == x.shape[1] and str(end) == str(x.shape[0] * every)


def _taken(node: fx.Node, x: fx.Node, own: fx.Node) -> list[Any] | None:
    shape = node.meta["val"].shape

    def rows(x: Tensor, own: Tensor) -> list[Tensor]:
        batch, n = x.shape[:2]
        flat, index = x.reshape(batch, n, -1), own.reshape(batch, -1, 1).long()
        return [flat.gather(1, index.expand(-1, -1, flat.shape[2])).reshape(shape)]

    values = x.meta["val"], own.meta["val"]
    with leaves_open(values):
        made = make_fx(rows, tracing_mode="real", _allow_non_fake_inputs=True)(*values)
    return insert_parts(made.graph, node, node, [x, own])
