"""Zeros that a model puts in front of its time steps by `torch.cat`, as the padding that they are."""

from __future__ import annotations

from typing import Any

from torch import fx

from rtaccel.convert.aten import aten
from rtaccel.convert.frontend.nodes import insert_call

_ZEROS = {aten.zeros.default, aten.new_zeros.default, aten.zeros_like.default}
_FULL = {aten.full.default: 1, aten.new_full.default: 2, aten.full_like.default: 1}
"""Call -> the argument that is the number."""


def zeros_as_padding(graph: fx.Graph) -> None:
    """In place: `cat([zeros, x], dim)`, and `torch.diff` with zeros for `prepend=`, become `pad(x)`."""
    for node in graph.find_nodes(op="call_function", target=aten.diff.default):
        _written_out(graph, node)
    for node in graph.find_nodes(op="call_function", target=aten.cat.default):
        parts: Any = node.args[0]
        known = [_is_zero(part) for part in parts]
        if known.count(False) != 1:
            continue
        at = known.index(False)
        kept, dim = parts[at], (node.args[1] if len(node.args) > 1 else 0) % node.meta["val"].dim()
        size = [sum(part.meta["val"].shape[dim] for part in some) for some in (parts[:at], parts[at + 1 :])]
        if not any(size) or any(part.meta["val"].dtype != kept.meta["val"].dtype for part in parts):
            continue
        with graph.inserting_before(node):
            made = insert_call(
                graph, node, aten.constant_pad_nd.default, (kept, [0, 0] * (node.meta["val"].dim() - 1 - dim) + size)
            )
        node.replace_all_uses_with(made)
        graph.erase_node(node)


def _written_out(graph: fx.Graph, node: fx.Node) -> None:
    """A difference of neighbors, with what is put in front, as the calls that it is."""
    given: Any = (*node.args, *(1, -1, None)[len(node.args) - 1 :])
    x, n, dim, front, *rest = given
    front = node.kwargs.get("prepend", front)
    if n != 1 or any(rest) or set(node.kwargs) - {"prepend"} or not isinstance(front, fx.Node) or not _is_zero(front):
        return
    with graph.inserting_before(node):
        both = insert_call(graph, node, aten.cat.default, ([front, x], dim))
        size = both.meta["val"].shape[dim]
        late = insert_call(graph, node, aten.slice.Tensor, (both, dim, 1, size))
        early = insert_call(graph, node, aten.slice.Tensor, (both, dim, 0, size - 1))
        made = insert_call(graph, node, aten.sub.Tensor, (late, early))
    node.replace_all_uses_with(made)
    graph.erase_node(node)


def _is_zero(part: fx.Node) -> bool:
    if part.target in _ZEROS:
        return True
    at = next((place for target, place in _FULL.items() if target is part.target), len(part.args))
    return len(part.args) > at and bool(part.args[at] == 0)
