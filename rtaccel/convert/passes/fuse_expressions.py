"""Neighbors that compute element by element become one pass; how they are joined, their operator's `merging` says."""

from __future__ import annotations

from dataclasses import replace

from rtaccel.convert.frontend.nodes import Buffer, OpNode


def fuse_expressions(op_nodes: list[OpNode], buffers: dict[str, Buffer], kept: set[str]) -> list[OpNode]:
    """kept: names of values that something outside the nodes reads; they stay."""
    while _join_one(op_nodes, buffers, kept):
        pass
    for op_node in op_nodes:
        if not op_node.is_fallback and op_node.operator.merging is not None:
            op_node.operator.merging.settle(op_node, buffers)
    return op_nodes


def _join_one(op_nodes: list[OpNode], buffers: dict[str, Buffer], kept: set[str]) -> bool:
    readers: dict[str, set[int]] = {}
    for index, op_node in enumerate(op_nodes):
        for name in op_node.reads:
            readers.setdefault(name, set()).add(index)
    for place, source in enumerate(op_nodes):
        name = source.writes[0]
        if _stays(source) or name in kept or len(readers.get(name, ())) != 1:
            continue
        at = next(iter(readers[name]))
        reader = op_nodes[at]
        if _stays(reader) or _is_wanted_plain(reader, op_nodes, readers):
            continue
        forms = _form(source, buffers), _form(reader, buffers)
        if forms[0] is None or forms[1] is None:
            continue
        if forms[1].operator.merging.takes_in(forms[1], forms[0], buffers[name].elements):  # type: ignore[union-attr]
            op_nodes[at] = forms[1]
            del op_nodes[place]
            return True
    return False


def _stays(op_node: OpNode) -> bool:
    return op_node.is_fallback or op_node.operator.merging is None


def _form(op_node: OpNode, buffers: dict[str, Buffer]) -> OpNode | None:
    merging = op_node.operator.merging
    form = None if merging is None else merging.in_form(op_node, buffers)
    return replace(form) if isinstance(form, OpNode) else None


def _is_wanted_plain(op_node: OpNode, op_nodes: list[OpNode], readers: dict[str, set[int]]) -> bool:
    """Whether a node is worth more as it is: layers that may be int8 read it, which it can write at once, or a norm that takes
    a sum in."""
    if not op_node.operator.int8.writes:
        return False
    users = [op_nodes[i] for i in readers.get(op_node.writes[0], ())]
    if any(not u.is_fallback and u.operator.folding is not None and u.operator.folding.sum_before for u in users):
        return op_node.adds
    return bool(users) and all(not u.is_fallback and u.operator.weights is not None for u in users)
