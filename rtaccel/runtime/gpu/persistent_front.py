"""Columns that are brought to one range before int8. A persistent kernel rounds x by one scale, so the host multiplies them."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from rtaccel.core.registry import operator
from rtaccel.core.stage import Stage
from rtaccel.plan.group import Subgraph
from rtaccel.plan.keep_float import quantizer


def without_factors(group: Subgraph) -> tuple[Subgraph, Tensor | None]:
    """(the group that rounds x as it comes, what the host multiplies each number of x by before), where the first stage does both
    and nothing else; (the group, None) elsewhere."""
    first, readers = group.stages[0], [v.name for s in group.stages for v in s.inputs]
    elementwise = operator(first.op).elementwise
    if elementwise is None or len(first.inputs) != 1 or len(first.outputs) != 1:
        return group, None
    (x,), (y,) = first.inputs, first.outputs
    affine = elementwise.affine(first.tensors)
    rounds = x.dtype == "float32" and y.dtype == "int8" and y.quant is not None
    plain = first.attrs.get("activation", "none") == "none" and readers.count(x.name) == 1
    if affine is None or affine[1].any() or not (rounds and plain and x.name == group.inputs[0].value.name):
        return group, None
    rounded = Stage(quantizer(), first.name, (x,), (y,))
    return replace(group, stages=(rounded, *group.stages[1:])), affine[0].float().repeat(x.steps)
