"""Which float32 values a plan of single launches looks at, because int8 cannot hold a NaN: as few as say the same.

On the CPU every float result of a sample is NaN where a value that became int8 by a static scale held a NaN or an infinity. A
kernel that quantizes x itself may hand that on: a row of x that int8 cannot hold is NaN in y, or all of a sample is. Where every
float result comes from y in that way, nobody need look at x any more.
"""

from __future__ import annotations

from collections.abc import Sequence

from rtaccel.core.registry import operator
from rtaccel.core.stage import Stage, Value


def looked_at(stage: Stage) -> list[Value]:
    """float32 inputs of a stage that become int8 with a static scale. The fourth input of attention is a mask, which may hold
    infinities; what stands behind x in a stage that hands on its NaN is added to y. None of one that gives a mark."""
    flow = operator(stage.op).int8
    if not flow.marks(stage) or stage.attrs.get("gives_mark"):
        return []
    inputs = stage.inputs[:1] if flow.hands_on(stage) else stage.inputs[:3]
    return [v for v in inputs if v.dtype == "float32"]


def handed_on(stages: Sequence[Stage], floats: Sequence[Value]) -> set[str]:
    """Names of values of which one NaN in a sample makes every one of the float results NaN, by the stages alone or because a
    value behind it is looked at. Of some values it takes a NaN in each row."""
    every = {v.name for v in floats} if len(floats) == 1 else set[str]()
    one, found = set[str](), set[str]()
    whole = {s.outputs[0].name for s in stages if operator(s.op).int8.hands_on_sample(s)}  # NaN in each row, or in none
    for stage in reversed(stages):
        x, y, flow = stage.inputs[0], stage.outputs[0], operator(stage.op).int8
        alone = x.steps == y.steps == 1
        if flow.hands_on_sample(stage) and y.name in every | one:
            found.add(x.name)
        elif flow.hands_on(stage) and x.steps == y.steps:
            if y.name in one or (alone and y.name in every):
                found.add(x.name)
            elif y.name in every:
                (found if x.name in whole else every).add(x.name)
        one |= found | {v.name for v in looked_at(stage)}
    return found


def marked_values(stages: Sequence[Stage], floats: Sequence[Value]) -> list[Value]:
    """What a plan looks at in every call. floats: its float32 results."""
    by_stages = handed_on(stages, floats)
    found = {v.name: v for stage in stages for v in looked_at(stage)}
    return [v for name, v in found.items() if name not in by_stages]
