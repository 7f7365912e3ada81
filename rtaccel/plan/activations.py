"""Activations inside of the formula before them, on the CPU.

Neighbors of one graph are one expression already. An activation that only layers read was left, as it could write int8 for them.
Where it writes float32 after all, what a norm made was read and written once more.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from rtaccel.core.registry import operator
from rtaccel.plan.group import Subgraph


def activations_inside(group: Subgraph) -> Subgraph:
    """The same computation with such activations in the stage that makes what they read."""
    stages = list(group.stages)
    maker = {v.name: i for i, s in enumerate(stages) for v in s.outputs}
    readers = Counter(v.name for s in stages for v in s.inputs)
    results = {p.value.name for p in group.outputs}
    gone = set[int]()
    for i, stage in enumerate(stages):
        activation = operator(stage.op).formula.activation(stage)
        at = maker.get(stage.inputs[0].name) if activation is not None else None
        if activation is None or at is None or readers[stage.inputs[0].name] != 1 or stage.inputs[0].name in results:
            continue
        y = stage.outputs[0]
        source = stages[at]
        followed = operator(source.op).formula.followed(source, activation, y) if len(source.outputs) == 1 else None
        if followed is not None:
            stages[at], maker[y.name] = followed, at
            gone.add(i)
    return replace(group, stages=tuple(s for i, s in enumerate(stages) if i not in gone)) if gone else group
