"""Branches that a truth value decides, `torch.cond`: both are computed, and the truth value takes the results of one.

Branches of torch.cond change nothing, so what is computed for nothing has no effect but its time.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from rtaccel.convert.aten import aten


def take_of_both(module: fx.GraphModule) -> None:
    """Rewrites the graph of a module in place. A branch with calls of other modules stays as it is, and so does one
    that gives other things than tensors."""
    graph = module.graph
    for node in list(graph.nodes):
        if node.target is not torch.ops.higher_order.cond:
            continue
        inside = [_graph_of(module, branch) for branch in node.args[1:3]]
        readers = list(node.users)
        if not all(_is_plain(part) for part in inside) or not isinstance(node.args[0], fx.Node):
            continue
        if any(reader.target is not operator.getitem for reader in readers):
            continue
        found = [_results(part) for part in inside if part is not None]
        if any(not _is_tensor(result) for results in found for result in results):
            continue
        with graph.inserting_before(node):
            yes, no = (_copied(graph, part, node.args[3]) for part in inside if part is not None)
            for reader in readers:
                index = reader.args[1]
                chosen = graph.call_function(aten.where.self, (node.args[0], yes[index], no[index]))
                chosen.meta = dict(reader.meta)
                reader.replace_all_uses_with(chosen)
        for used in (*readers, node, *node.args[1:3]):
            if isinstance(used, fx.Node) and not used.users:
                graph.erase_node(used)


def _graph_of(module: fx.GraphModule, branch: Any) -> fx.Graph | None:
    """Of a branch, its own branches taken of both before."""
    part = (
        getattr(module, str(branch.target), None) if isinstance(branch, fx.Node) and branch.op == "get_attr" else None
    )
    if not isinstance(part, fx.GraphModule):
        return None
    take_of_both(part)
    return part.graph


def _is_plain(graph: fx.Graph | None) -> bool:
    if graph is None:
        return False
    calls = [node for node in graph.nodes if node.op not in ("placeholder", "output")]
    return all(
        node.op == "call_function" and not isinstance(node.target, torch._ops.HigherOrderOperator) for node in calls
    )


def _results(graph: fx.Graph) -> Sequence[Any]:
    found = next(node for node in graph.nodes if node.op == "output").args[0]
    return found if isinstance(found, (tuple, list)) else (found,)


def _is_tensor(result: Any) -> bool:
    return isinstance(result, fx.Node) and isinstance(result.meta.get("val"), Tensor)


def _copied(graph: fx.Graph, part: fx.Graph, operands: Any) -> list[fx.Node]:
    """The calls of a branch in the graph around it; its results."""
    known = dict(zip((node for node in part.nodes if node.op == "placeholder"), operands, strict=True))
    for node in part.nodes:
        if node.op == "call_function":
            known[node] = graph.node_copy(node, lambda n: known[n])
    return [known[result] for result in _results(part)]
