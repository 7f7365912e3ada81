"""From an exported graph to the nodes that are computed: rules make them, passes fuse them and drop what nobody reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rtaccel.convert.frontend.export import Captured
from rtaccel.convert.frontend.graph import Builder, DraftGraph
from rtaccel.convert.frontend.nodes import Draft
from rtaccel.convert.passes.eliminate_dead_rows import trim
from rtaccel.convert.passes.fuse_epilogue import fold
from rtaccel.convert.patterns.rules import match


def build_graph(captured: Captured, batch: int | None, windowed: bool = False) -> DraftGraph:
    """batch: the samples of dimension 0, or None for tensors taken as one. windowed: rows stay where they are, for a stream."""
    graph = Builder(captured, batch, match, windowed).build()
    kept = {o for o in graph.outputs if isinstance(o, str)}
    kept |= {graph.views[o].base for o in kept if o in graph.views}
    drafts = _used(fold(_used(graph.drafts, kept), kept), kept)
    if not windowed:
        drafts = fold(trim(drafts, graph.slots, kept), kept)  # what lay between two calls may be gone
    return replace(graph, drafts=tuple(drafts))


def _used(drafts: Sequence[Draft], kept: set[str]) -> list[Draft]:
    """Without what nobody reads: a call that only fed something folded away."""
    found = list(drafts)
    while True:
        read = kept | {name for draft in found for name in draft.reads}
        remaining = [d for d in found if read & {*d.writes}]
        if len(remaining) == len(found):
            return remaining
        found = remaining
