"""States of recurrent layers in a body are written where they lie: their stage reads them before."""

from __future__ import annotations

from collections.abc import Sequence

from rtaccel.convert.frontend.nodes import OpNode


def written_in_place(op_nodes: Sequence[OpNode], last: Sequence[OpNode], kept: set[str]) -> list[OpNode]:
    """`last` without the copies of new states that their stages can write themselves; changes these stages. kept: values that
    something outside reads."""
    left = []
    for copy in last:
        value, state = copy.reads[0], copy.writes[0]
        stage = next((n for n in op_nodes if value in n.writes), None)
        if stage is None or not _may(stage, value, state, op_nodes):
            left.append(copy)
            continue
        at = stage.writes.index(value)
        read = {name for n in [*op_nodes, *last] if n is not copy for name in n.reads} | kept
        spare = stage.writes[0]
        if value in read and (at != 1 or spare in read):
            left.append(copy)
            continue
        stage.writes[at] = state
        if value in read:  # y of one step is the new h
            stage.writes[0] = value
    return left


def _may(stage: OpNode, value: str, state: str, op_nodes: Sequence[OpNode]) -> bool:
    recurrence = stage.operator.recurrence
    if recurrence is None or state not in stage.reads or stage.reads.index(state) != stage.writes.index(value):
        return False
    return stage.attrs.get("time") == 1 and not any(state in n.reads for n in op_nodes if n is not stage)
