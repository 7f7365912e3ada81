"""A residual that is normalised: the norm adds it itself, and hands on the sum where somebody else reads it."""

from __future__ import annotations

from dataclasses import replace

from rtaccel.convert.frontend.graph import DraftGraph
from rtaccel.convert.frontend.nodes import Draft


def fuse_norms(graph: DraftGraph) -> DraftGraph:
    """The graph with every plain sum of two values inside the norm that reads it."""
    kept = {o for o in graph.outputs if isinstance(o, str)}
    kept |= {graph.views[o].base for o in kept if o in graph.views}
    made = {name: draft for draft in graph.drafts for name in draft.writes}
    users: dict[str, list[Draft]] = {}
    for draft in graph.drafts:
        for name in draft.reads:
            users.setdefault(name, []).append(draft)
    drafts: list[Draft] = []
    gone: set[str] = set()
    for draft in graph.drafts:
        total = draft.reads[0] if draft.op == "norm" and len(draft.reads) == len(draft.writes) == 1 else ""
        source = made.get(total)
        if source is None or total in gone or not _plain_sum(source, graph, total):
            drafts.append(draft)
            continue
        gone.add(total)
        beside = total in kept or len(users[total]) > 1
        writes = [draft.writes[0], *([total] if beside else [])]
        drafts.append(replace(draft, reads=list(source.reads), writes=writes))
    return replace(graph, drafts=tuple(_in_order([d for d in drafts if not set(d.writes) <= gone], gone)))


def _plain_sum(source: Draft, graph: DraftGraph, total: str) -> bool:
    plain = source.op == "pointwise" and len(source.reads) == 2 and source.attrs.get("join", "add") == "add"
    shape = [(graph.slots[name].width, graph.slots[name].elements) for name in (*source.reads, total)]
    return plain and source.activation == "none" and "scale" not in source.tensors and len(set(shape)) == 1


def _in_order(drafts: list[Draft], moved: set[str]) -> list[Draft]:
    """Readers of a sum that a norm gives now come after that norm."""
    ready = {name for d in drafts for name in d.reads} - {name for d in drafts for name in d.writes}
    ordered: list[Draft] = []
    pending = list(drafts)
    while pending:
        now = next(d for d in pending if all(name in ready or name not in moved for name in d.reads))
        ready.update(now.writes)
        ordered.append(now)
        pending.remove(now)
    return ordered
