"""Calls that may be views, and a call in the graph in the place of another."""

from __future__ import annotations

from typing import Any

from torch import fx

from rtaccel.convert.aten import aten

RESHAPED = {
    aten.reshape.default, aten.flatten.using_ints, aten.unflatten.int, aten.view_as.default, aten.reshape_as.default,
    aten.ravel.default,
}  # fmt: skip
MAYBE_ITSELF = {
    aten.contiguous.default, aten.to.dtype, aten.to.dtype_layout, aten.to.device, aten.to.other, aten.type_as.default,
    aten.expand_as.default, aten.lift_fresh.default,
}  # fmt: skip
"""Calls that may give their input as it is."""


def made(node: fx.Node, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> fx.Node:
    new = node.graph.call_function(target, args, kwargs)
    new.meta = dict(node.meta)
    return new


def replace(node: fx.Node, by: fx.Node) -> bool:
    node.replace_all_uses_with(by)
    node.graph.erase_node(node)
    return True
