"""Calls in place as the same calls out of place."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from rtaccel.convert.aten import aten
from rtaccel.convert.frontend.functional.calls import made, replace
from rtaccel.convert.frontend.functional.written_views import Memory, write_views
from rtaccel.convert.frontend.graph.open_shapes import open_shapes


def out_of_place(graph: fx.Graph, memory: Memory) -> bool:
    """Calls in place as calls that give a new value. False, with nothing changed, where one has no such form."""
    changed = [n for n in graph.nodes if n.op == "call_function" and getattr(n.target, "_schema", None) is not None
               and n.target._schema.is_mutable and n.target is not aten.detach_.default]  # fmt: skip
    if not changed:
        return True
    order = {node: i for i, node in enumerate(graph.nodes)}
    holders: dict[int, list[fx.Node]] = {}
    for node in graph.nodes:
        for storage in memory.held(node):
            holders.setdefault(storage, []).append(node)
    targets = {node: _functional(node) for node in changed}
    if None in targets.values():
        return False
    if any(_seen_by_others(node, order, holders, memory) for node in changed):
        return write_views(graph, targets, memory)
    for node, target in targets.items():
        with graph.inserting_before(node):
            new = made(node, target, node.args, dict(node.kwargs))
        written = node.args[0]
        written.replace_all_uses_with(new, delete_user_cb=lambda user, node=node: order.get(user, -1) > order[node])
        replace(node, new)
        order[new] = order[node]
    return True


def _seen_by_others(
    node: fx.Node, order: dict[fx.Node, int], holders: dict[int, list[fx.Node]], memory: Memory
) -> bool:
    """Whether what is read later holds the memory that is written."""
    written: fx.Node = node.args[0]  # type: ignore[assignment]
    for storage in memory.held(written):
        for holder in holders[storage]:
            if holder.op == "placeholder":
                return True
            if order[holder] >= order[node] or holder is written:
                continue  # made from the result, or what is written itself
            if any(order[user] > order[node] for user in holder.users):
                return True
    return False


def _functional(node: fx.Node) -> Any | None:
    """The same call out of place; None where there is none."""
    schema, written = node.target._schema, node.args[0] if node.args else None  # type: ignore[union-attr]
    if not isinstance(written, fx.Node) or not isinstance(written.meta.get("val"), Tensor):
        return None
    if torch.Tag.inplace_view in node.target.tags:  # type: ignore[union-attr]
        return None
    writes = [a for a in schema.arguments if a.alias_info is not None and a.alias_info.is_write]
    name = schema.name.split("::")[-1]
    if [a.name for a in writes] != [schema.arguments[0].name]:
        return None
    if not schema.name.startswith("aten::") or not name.endswith("_"):
        return None
    target = getattr(getattr(aten, name[:-1], None), node.target._overloadname, None)  # type: ignore[union-attr]
    if target is None or [a.name for a in target._schema.arguments] != [a.name for a in schema.arguments]:
        return None
    try:
        with open_shapes([written.meta["val"]]):
            args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: n.meta["val"])
            value = target(*args, **kwargs)
    except Exception:  # torch's step says why
        return None
    if not isinstance(value, Tensor) or value.dtype != written.meta["val"].dtype:
        return None
    return target
