"""Distances of all pairs of rows in one pass, on the CPU: what joins differences makes them itself, where nobody else reads them.

Each row of one operand meets each row of the other. All differences were as many numbers to write and to read as there are
pairs of rows times the elements of a row.
"""

from __future__ import annotations

from rtaccel.core.registry import operator, with_role
from rtaccel.core.stage import Stage
from rtaccel.core.traits import Role
from rtaccel.plan.group import Subgraph
from rtaccel.plan.inside import with_sources_inside


def pairs_inside(group: Subgraph) -> Subgraph:
    """The same computation with such differences inside of what joins them."""
    return with_sources_inside(group, _joined)


def _joined(stage: Stage, source: Stage) -> Stage | None:
    joins = operator(stage.op).pairs.joins(stage)
    differences = operator(source.op).pairs.differences(source) if joins is not None else None
    if joins is None or differences is None:
        return None
    return with_role(Role.PAIRS).pairs.joined(stage.name, stage.outputs[0], differences, joins)
