"""Distances of all pairs of rows in one pass, on the CPU: what joins differences makes them itself, where nobody else reads them.

Each row of one operand meets each row of the other. All differences were as many numbers to write and to read as there are
pairs of rows times the elements of a row.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from rtaccel.core.registry import operator, with_role
from rtaccel.core.traits import Role
from rtaccel.plan.group import Subgraph


def pairs_inside(group: Subgraph) -> Subgraph:
    """The same computation with such differences inside of what joins them."""
    maker = {v.name: s for s in group.stages for v in s.outputs}
    readers = Counter(v.name for s in group.stages for v in s.inputs)
    results = {p.value.name for p in group.outputs}
    stages, gone = [], set[str]()
    for stage in group.stages:
        joins = operator(stage.op).pairs.joins(stage)
        name = stage.inputs[0].name if joins is not None else ""
        source = maker.get(name)
        if joins is not None and source is not None and readers[name] == 1 and name not in results:
            differences = operator(source.op).pairs.differences(source)
            if differences is not None:
                made = with_role(Role.PAIRS).pairs.joined(stage.name, stage.outputs[0], differences, joins)
                if made is not None:
                    gone.add(name)
                    stage = made
        stages.append(stage)
    return replace(group, stages=tuple(s for s in stages if not any(v.name in gone for v in s.outputs)))
