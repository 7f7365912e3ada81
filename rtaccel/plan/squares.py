"""Sums of squares in one pass, on the CPU: what joins squares computes them itself, where nobody else reads them.

A variance, a norm and an energy are such sums. Of an image the squares were as many bytes to write and to read as
the image itself.
"""

from __future__ import annotations

from rtaccel.core.registry import operator
from rtaccel.core.stage import Stage
from rtaccel.plan.group import Subgraph
from rtaccel.plan.inside import with_sources_inside


def squares_inside(group: Subgraph) -> Subgraph:
    """The same computation with such squares inside of what joins them."""
    return with_sources_inside(group, _joined)


def _joined(stage: Stage, source: Stage) -> Stage | None:
    square = operator(source.op).squares.made(source)
    return operator(stage.op).squares.joined(stage, square) if square is not None else None
