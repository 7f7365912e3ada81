"""A residual that is normalized: the norm adds it itself, and hands on the sum where somebody else reads it."""

from __future__ import annotations

from dataclasses import replace

from rtaccel.convert.frontend.graph.op_graph import OpGraph
from rtaccel.convert.frontend.nodes import OpNode


def fuse_norms(graph: OpGraph) -> OpGraph:
    """The graph with every plain sum of two values inside the norm that reads it."""
    kept = graph.kept
    made = {name: op_node for op_node in graph.op_nodes for name in op_node.writes}
    users: dict[str, list[OpNode]] = {}
    for op_node in graph.op_nodes:
        for name in op_node.reads:
            users.setdefault(name, []).append(op_node)
    op_nodes: list[OpNode] = []
    gone: set[str] = set()
    for op_node in graph.op_nodes:
        total = op_node.reads[0] if _takes_sum(op_node) and len(op_node.reads) == len(op_node.writes) == 1 else ""
        source = made.get(total)
        if source is None or total in gone or not _plain_sum(source, graph, total):
            op_nodes.append(op_node)
            continue
        gone.add(total)
        beside = total in kept or len(users[total]) > 1
        writes = [op_node.writes[0], *([total] if beside else [])]
        op_nodes.append(replace(op_node, reads=list(source.reads), writes=writes))
    return replace(graph, op_nodes=tuple(_in_order([d for d in op_nodes if not set(d.writes) <= gone], gone)))


def _takes_sum(op_node: OpNode) -> bool:
    return not op_node.is_fallback and op_node.operator.folding is not None and op_node.operator.folding.sum_before


def _plain_sum(source: OpNode, graph: OpGraph, total: str) -> bool:
    if not source.adds or source.activation != "none":
        return False
    shape = [(graph.buffers[name].width, graph.buffers[name].elements) for name in (*source.reads, total)]
    return len(set(shape)) == 1


def _in_order(op_nodes: list[OpNode], moved: set[str]) -> list[OpNode]:
    """Readers of a sum that a norm gives now come after that norm, and so does what reads their results."""
    ordered: list[OpNode] = []
    pending = op_nodes
    while pending:
        missing = moved - {name for d in ordered for name in d.writes}
        later: list[OpNode] = []
        for op_node in pending:
            if missing & {*op_node.reads}:
                later.append(op_node)
                missing.update(op_node.writes)
            else:
                ordered.append(op_node)
                missing.difference_update(op_node.writes)
        pending = later
    return ordered
