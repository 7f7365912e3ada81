"""Stages that take in what makes their input, where nobody else reads it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from rtaccel.core.stage import Stage
from rtaccel.plan.group import Subgraph


def with_sources_inside(group: Subgraph, joined: Callable[[Stage, Stage], Stage | None]) -> Subgraph:
    """The same computation. joined: of a stage and of the one that makes its first input alone, one that does both, or None."""
    maker = {v.name: s for s in group.stages for v in s.outputs}
    readers = Counter(v.name for s in group.stages for v in s.inputs)
    results = {p.value.name for p in group.outputs}
    stages, gone = list[Stage](), set[str]()
    for stage in group.stages:
        name = stage.inputs[0].name if stage.inputs else ""
        source = maker.get(name)
        if source is not None and readers[name] == 1 and name not in results and len(source.outputs) == 1:
            both = joined(stage, source)
            if both is not None:
                gone.add(name)
                stage = both
        stages.append(stage)
    return replace(group, stages=tuple(s for s in stages if not any(v.name in gone for v in s.outputs)))
