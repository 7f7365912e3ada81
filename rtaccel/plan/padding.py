"""Values without padding, on the CPU: rows that fill no vectors are joined, where nobody looks at rows.

A value inside of a plan has each of its rows at a cache line, so that 960 rows of 36 float32 are 960 rows of 48. A sum or a
product of elements then goes row by row, with a rest in each. Where the stages around it take a value by elements, it is 240 rows
of 144.

Stages that make each element of the same one of others join their values: these have other rows together, or stay.
"""

from __future__ import annotations

from dataclasses import replace
from math import gcd

from rtaccel.core.registry import operator
from rtaccel.core.stage import Stage, Value
from rtaccel.plan.group import Subgraph

LINE = 16
"""float32 of a cache line: rows of a multiple of them have no padding."""
MAX_ROW = 4096
"""Elements that become one row, where no part of the rows fills lines. A block of a plan has the more samples, the fewer rows."""


def without_padding(group: Subgraph) -> Subgraph:
    """The same computation with such values as one row each."""
    padded = {v.name for s in group.stages for v in s.outputs if _is_padded(v)}
    if not padded:
        return group
    joined = _Joined()
    fixed = {
        p.value.name for p in (*group.inputs, *group.outputs)
    }  # the caller's have no padding, and files name their rows
    for stage in group.stages:
        values = (*stage.inputs, *stage.outputs)
        floats = all(v.dtype == "float32" for v in values)
        together = operator(stage.op).planes.rows_together(stage) if floats else ()
        if not together:
            fixed |= {v.name for v in values}
        for some in together:
            joined.join([v.name for v in some])
    kept = {joined.of(name) for name in fixed}
    turned = {joined.of(name) for name in padded} - kept
    if not turned:
        return group

    def dense(value: Value) -> Value:
        return _dense(value) if joined.of(value.name) in turned else value

    def over(stage: Stage) -> Stage:
        inputs, outputs = tuple(map(dense, stage.inputs)), tuple(map(dense, stage.outputs))
        return (
            stage
            if (inputs, outputs) == (stage.inputs, stage.outputs)
            else replace(stage, inputs=inputs, outputs=outputs)
        )

    return replace(group, stages=tuple(map(over, group.stages)))


def _is_padded(value: Value) -> bool:
    """Whether it has padding that it can do without."""
    return value.width % LINE != 0 and value.dtype == "float32" and _dense(value) != value


def _dense(value: Value) -> Value:
    """As few rows joined as fill lines, or all of a small value."""
    together = LINE // gcd(LINE, value.width)
    if value.steps % together == 0:
        return replace(value, width=value.width * together, steps=value.steps // together)
    elements = value.steps * value.width
    return replace(value, width=elements, steps=1) if elements <= MAX_ROW else value


class _Joined:
    """Sets of names; each has one of its names as its own."""

    def __init__(self) -> None:
        self._above: dict[str, str] = {}

    def of(self, name: str) -> str:
        while (above := self._above.get(name, name)) != name:
            name = above
        return name

    def join(self, names: list[str]) -> None:
        first = self.of(names[0])
        for name in names[1:]:
            if (other := self.of(name)) != first:
                self._above[other] = first
