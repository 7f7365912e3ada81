"""From an exported graph to the nodes that are computed: rules make them, passes fuse them and drop what nobody reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rtaccel.convert.frontend.exported.graph import ExportedGraph
from rtaccel.convert.frontend.graph.builder import Builder
from rtaccel.convert.frontend.graph.op_graph import OpGraph
from rtaccel.convert.frontend.nodes import OpNode
from rtaccel.convert.passes.compose_copies import compose_copies
from rtaccel.convert.passes.cut_assemblies import cut_assemblies
from rtaccel.convert.passes.eliminate_dead_rows import eliminate_dead_rows
from rtaccel.convert.passes.fuse_epilogue import fold
from rtaccel.convert.passes.fuse_expressions import fuse_expressions
from rtaccel.convert.passes.hoist_elementwise import hoist_elementwise
from rtaccel.convert.passes.join_branches import join_branches
from rtaccel.convert.passes.turn_columns import turn_columns
from rtaccel.convert.patterns.rules import match
from rtaccel.convert.quantization.trained import with_trained


def build_graph(exported: ExportedGraph, batch: int | None, windowed: bool = False) -> OpGraph:
    """batch: the samples of dimension 0, or None for tensors taken as one. windowed: rows stay where they are, for a stream."""
    graph = Builder(exported, batch, match, windowed).build()
    kept = graph.kept
    found = with_trained(_used(graph.op_nodes, kept), exported.trained, exported.retraced)
    op_nodes = _used(fold(found, kept), kept)
    op_nodes = fold(join_branches(op_nodes, kept), kept)
    op_nodes = cut_assemblies(op_nodes, graph.buffers, kept)
    op_nodes = fold(hoist_elementwise(op_nodes, graph.buffers, kept), kept)
    op_nodes = cut_assemblies(op_nodes, graph.buffers, kept)
    op_nodes = fuse_expressions(op_nodes, graph.buffers, kept)
    if not windowed:
        op_nodes = turn_columns(compose_copies(op_nodes, graph.buffers, kept), graph.buffers, kept)
        op_nodes = fold(
            eliminate_dead_rows(op_nodes, graph.buffers, kept), kept
        )  # what lay between two calls may be gone
    return replace(graph, op_nodes=tuple(op_nodes))


def _used(op_nodes: Sequence[OpNode], kept: set[str]) -> list[OpNode]:
    """Without what nobody reads: a call that only fed something folded away."""
    found = list(op_nodes)
    while True:
        read = kept | {name for op_node in found for name in op_node.reads}
        remaining = [d for d in found if read & {*d.writes}]
        if len(remaining) == len(found):
            return remaining
        found = remaining
