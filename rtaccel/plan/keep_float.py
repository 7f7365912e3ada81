"""Results that stay float32 on a GPU, so that they hold the NaN that int8 does not. What looks for it is a launch of its own.

a recurrent stack -> int8 -> a layer          the stack gives float32, and the layer rounds it itself
a layer with GELU -> int8 -> a layer          the same

The numbers are the same, as the stage before rounds at its very end. The layers behind may be a chain then, which begins with
float32.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from rtaccel.core.registry import impls, operator, operators
from rtaccel.core.stage import Problem, Stage, Value
from rtaccel.core.traits import Role
from rtaccel.plan.nan_marks import marked_values

FAR = 1000
"""Launches, as it were, of a stage that no kernel takes."""


def with_floats(stages: Sequence[Stage], outputs: Sequence[Value], rows: int) -> list[Stage] | None:
    """The stages with float32 wherever the reader of an int8 value can round it itself. None where that saves no launch: there
    are other results than one of float32, or nobody looks at a value, or there is no such reader."""
    if [v.dtype for v in outputs] != ["float32"] or not marked_values(stages, outputs):
        return None
    readers = Counter(v.name for s in stages for v in s.inputs)
    first = {s.inputs[0].name: s for s in reversed(stages)}
    found: list[Stage] = []
    for stage in stages:
        y = stage.outputs[0]
        reader = first.get(y.name)
        if reader is None or y.quant is None or readers[y.name] != 1 or not operator(stage.op).int8.rounds_last(stage):
            found.append(stage)
            continue
        x = replace(y, name=f"{y.name}:float32", dtype="float32", quant=None)
        rounded = Stage(quantizer(), f"{stage.name}:rounded", (x,), (y,))
        takes = operator(reader.op).fusion.static(reader, rounded, rows) is not None
        found += [replace(stage, outputs=(x, *stage.outputs[1:])), rounded] if takes else [stage]
    return found if len(found) > len(stages) else None


def launches(stages: Sequence[Stage], outputs: Sequence[Value], rows: int) -> int:
    """Of the first kernel that takes each stage, and of the one that looks for what int8 cannot hold."""
    count = int(bool(marked_values(stages, [v for v in outputs if v.dtype == "float32"])))
    for stage in stages:
        problem = Problem.of(stage, rows, "cuda")
        count += next((i.launches for i in impls("triton", stage.op) if i.supports(problem) is None), FAR)
    return count


def quantizer() -> str:
    """The name of the operator that rounds float32 to int8."""
    return next(name for name, found in operators().items() if found.role is Role.QUANTIZE)
