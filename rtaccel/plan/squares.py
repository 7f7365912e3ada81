"""Sums of squares in one pass, on the CPU: what joins squares computes them itself, where nobody else reads them.

A variance, a norm and an energy are such sums. Of an image the squares were as many bytes to write and to read as
the image itself.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from rtaccel.core.registry import operator
from rtaccel.core.stage import Stage
from rtaccel.plan.group import Subgraph


def squares_inside(group: Subgraph) -> Subgraph:
    """The same computation with such squares inside of what joins them."""
    maker = {v.name: s for s in group.stages for v in s.outputs}
    readers = Counter(v.name for s in group.stages for v in s.inputs)
    results = {p.value.name for p in group.outputs}
    stages, gone = list[Stage](), set[str]()
    for stage in group.stages:
        source = maker.get(stage.inputs[0].name) if stage.inputs else None
        name = stage.inputs[0].name if stage.inputs else ""
        if source is not None and readers[name] == 1 and name not in results and len(source.outputs) == 1:
            square = operator(source.op).squares.made(source)
            joined = operator(stage.op).squares.joined(stage, square) if square is not None else None
            if joined is not None:
                gone.add(name)
                stage = joined
        stages.append(stage)
    return replace(group, stages=tuple(s for s in stages if not any(v.name in gone for v in s.outputs)))
