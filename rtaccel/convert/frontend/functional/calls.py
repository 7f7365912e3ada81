"""A call in the graph in the place of another."""

from __future__ import annotations

from typing import Any

from torch import fx


def made(node: fx.Node, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> fx.Node:
    new = node.graph.call_function(target, args, kwargs)
    new.meta = dict(node.meta)
    return new


def replace(node: fx.Node, by: fx.Node) -> bool:
    node.replace_all_uses_with(by)
    node.graph.erase_node(node)
    return True
