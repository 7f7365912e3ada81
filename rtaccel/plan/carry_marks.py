"""A NaN that int8 cannot hold goes beside it, in a mark of its sample: no launch looks for it alone, on a GPU.

The stage that rounds a float32 value looks at it in programs of its own, and gives the mark. The stage that gives float32 again
multiplies by it: 1 changes nothing, and NaN makes the sample NaN. Between them values are int8.
"""

from __future__ import annotations

from collections.abc import Sequence

from rtaccel.core.registry import operator
from rtaccel.core.stage import Stage, Value
from rtaccel.plan.nan_marks import looked_at, marked_values


def with_marks(stages: Sequence[Stage], outputs: Sequence[Value]) -> Sequence[Stage]:
    """The stages with marks, where by them no value is left to look at; else the stages as they are."""
    floats = [v for v in outputs if v.dtype == "float32"]
    left = {v.name for v in marked_values(stages, floats)}
    if not left:
        return stages
    found: list[Stage] = []
    lost = dict[str, Value]()  # int8 values that hold no NaN: the mark that says so
    whole = set[str]()  # float32 values that are NaN all over, wherever a mark says so
    for stage in stages:
        flow, y = operator(stage.op).int8, stage.outputs[0]
        marks = list({lost[v.name].name: lost[v.name] for v in stage.inputs if v.name in lost}.values())
        made: Stage | None = stage
        if any(v.name in left for v in looked_at(stage)):
            mark = Value(f"{stage.inputs[0].name}:mark", 1)
            made = flow.give_mark(stage, mark) if not marks and not whole and y.dtype == "int8" else None
            marks = [mark]
        elif marks and y.dtype == "float32":
            made = flow.take_mark(stage, marks[0]) if len(marks) == 1 else None
            whole.add(y.name)
            marks = []
        elif stage.inputs[0].name in whole and (flow.keeps_nan or flow.hands_on(stage) or flow.hands_on_sample(stage)):
            whole.add(y.name)
        if made is None or len(marks) > 1:
            return stages
        lost.update((v.name, marks[0]) for v in stage.outputs if marks)
        found.append(made)
    one_mark = len({v.name for v in lost.values()}) == 1
    return found if one_mark and all(v.name in whole for v in floats) else stages
