"""Images of few channels as planes, on the CPU: all positions of a channel side by side, as a caller's tensor has them.

With a row of channels for each position, an image of one channel leaves vectors empty, and one of three is turned round twice, at
either end. Where operators read or write planes (rtaccel.core.stage_traits), the copies that turn planes into rows and back go:

    planes -> copy -> stage       the stage reads the planes
    stage -> copy -> planes       the stage writes the planes
    stage -> stage                what is between lies as planes, where every reader takes it so, or by elements

What a stage adds to the planes that it writes is planes too: a copy turns it where it is rows.

Values keep their names and their elements; those that another stage reads by position stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtaccel.core.registry import operator, with_role
from rtaccel.core.stage import Stage, Value
from rtaccel.core.traits import Role
from rtaccel.plan.group import Subgraph

Shape = tuple[int, int, int]
"""Channels, height, width."""


def over_planes(group: Subgraph) -> Subgraph:
    """The same computation with few channels as planes."""
    if all(operator(s.op).planes.read(s) is None and operator(s.op).planes.written(s) is None for s in group.stages):
        return group
    return _Planes(group).made()


@dataclass(frozen=True)
class _Target:
    """What a stage writes as planes, and the copy that is not needed then."""

    value: Value
    copy: Stage | None = None


class _Planes:
    def __init__(self, group: Subgraph) -> None:
        self._group = group
        self._edges = {p.value.name for p in (*group.inputs, *group.outputs)}
        self._outputs = {p.value.name for p in group.outputs}
        self._maker = {v.name: s for s in group.stages for v in s.outputs}
        self._readers: dict[str, list[Stage]] = {}
        for stage in group.stages:
            for name in {v.name for v in stage.inputs}:
                self._readers.setdefault(name, []).append(stage)
        self._replaced: set[str] = set()  # what copies made, and the stage before them writes now
        self._targets: dict[str, _Target] = {}
        self._turned_round: set[str] = set()  # values of several channels that are planes now
        self._copies: dict[str, Value] = {}  # of what is rows for others
        for stage in reversed(group.stages):  # readers first
            target = self._target(stage)
            if target is not None:
                self._targets[stage.outputs[0].name] = target

    def made(self) -> Subgraph:
        planes: dict[str, Value] = {}  # values that are planes now
        shapes: dict[str, Value] = {}  # values with other rows than before
        stages: list[Stage] = []
        for stage in self._group.stages:
            traits, x = operator(stage.op).planes, stage.inputs[0] if stage.inputs else None
            target = self._targets.get(stage.outputs[0].name)
            if x is None or stage.outputs[0].name in self._replaced:
                stages.extend([stage] if x is None else [])
                continue
            source = None
            if target is not None and traits.together:
                source, target = self._both(stage, target, planes, stages)
            written = traits.written(stage)
            if target is not None and written is not None:
                planes[stage.outputs[0].name] = target.value
                if written[0] > 1:
                    self._turned_round.add(stage.outputs[0].name)
                shapes[stage.outputs[0].name] = shapes[target.value.name] = target.value
                if target.copy is not None:
                    self._replaced.add(target.value.name)
                stage = traits.over(stage, None, target.value)
                stage = self._with_planes_beside(stage, target.value, planes, stages)
            if not traits.together:
                source = next(iter(self._sources(stage, planes)), None)
            if source is not None:
                stage = operator(stage.op).planes.over(stage, source, None)
            elif traits.by_elements(stage):
                stage = replace(stage, inputs=tuple(shapes.get(v.name, v) for v in stage.inputs))
            stages.append(stage)
        return replace(
            self._group,
            stages=tuple(_used(stages, self._outputs)),
            outputs=tuple(replace(p, value=shapes.get(p.value.name, p.value)) for p in self._group.outputs),
        )

    def _both(
        self, stage: Stage, target: _Target, planes: dict[str, Value], before: list[Stage]
    ) -> tuple[Value | None, _Target | None]:
        """The source and the target of a stage whose values are planes or rows together. Where its first input is rows and
        another one is planes already, the first is turned."""
        for source in self._sources(stage, planes):
            agreed = self._agreed(stage, target, source)
            if agreed is not None:
                return source, agreed
        beside = [stage.inputs[i] for i in operator(stage.op).planes.beside(stage)]
        if not any(v.name in planes for v in beside):
            return None, None
        return self._as_planes(stage, stage.inputs[0], target.value, planes, before), target

    def _with_planes_beside(self, stage: Stage, y: Value, planes: dict[str, Value], before: list[Stage]) -> Stage:
        """The stage whose result y is planes, with those beside it."""
        inputs = list(stage.inputs)
        for i in operator(stage.op).planes.beside(stage):
            inputs[i] = self._as_planes(stage, inputs[i], y, planes, before)
        return replace(stage, inputs=tuple(inputs))

    def _as_planes(self, stage: Stage, given: Value, y: Value, planes: dict[str, Value], before: list[Stage]) -> Value:
        """An input as planes, as y lies where the stage needs that; copies of what is not go to the end of `before`."""
        found = planes.get(given.name) or self._turned_from(stage, given, planes)
        if found is None:
            index = np.arange(given.steps * given.width).reshape(given.steps, given.width).T.reshape(-1)
            found = self._copy(stage, given, "planes", index, y, before)
        if operator(stage.op).planes.alike and found.shape != y.shape:
            found = self._copy(stage, found, "rows", np.arange(y.steps * y.width), y, before)
        return found

    def _copy(self, stage: Stage, x: Value, what: str, index: NDArray[Any], y: Value, before: list[Stage]) -> Value:
        """Elements of x in the rows of y, by a copy that others share."""
        name = f"{x.name}.{what}.{y.steps}x{y.width}"
        if name not in self._copies:
            made = self._copies[name] = Value(name, y.width, x.dtype, x.quant, y.steps)
            attrs = {"index": tuple(index.tolist())}
            before.append(Stage(with_role(Role.GATHER).name, stage.name, (x,), (made,), attrs=attrs))
        return self._copies[name]

    def _turned_from(self, stage: Stage, rows: Value, planes: dict[str, Value]) -> Value | None:
        """The planes that a copy made these rows of, where they lie so that the stage takes them."""
        maker, shape = self._maker.get(rows.name), operator(stage.op).planes.written(stage)
        if maker is None or shape is None or not _turned(maker, (rows.width, rows.steps, 1), back=False):
            return None
        source = self._in_order(maker.inputs[0], planes)
        return source if source is not None and self._lies_well(source, shape) else None

    def _in_order(self, x: Value, planes: dict[str, Value]) -> Value | None:
        """What a copy reads, with its elements in the order that it had for the copy."""
        return None if x.name in self._turned_round else planes.get(x.name, x)

    def _target(self, stage: Stage) -> _Target | None:
        """Where a stage may write planes: every reader takes them, or a single copy turns them."""
        y, shape = stage.outputs[0], operator(stage.op).planes.written(stage)
        if shape is None or len(stage.outputs) > 1:
            return None
        if operator(stage.op).planes.together and not self._may_come(stage):
            return None
        readers = self._readers.get(y.name, [])
        copies = [r for r in readers if _turned(r, shape, back=True)]
        others = [r for r in readers if r not in copies]
        flat = replace(y, width=prod(shape), steps=1)
        value = copies[0].outputs[0] if copies else flat
        if copies and operator(stage.op).planes.alike and self._by_elements_alone(value.name):
            value = replace(value, width=prod(shape), steps=1)  # as what comes before has its rows
        if len(copies) > 1 or any(not self._takes(r, y.name, shape, value) for r in others):
            return None
        if y.name in self._outputs and (shape[0] > 1 or copies):
            return None  # rows of channels are what is asked for
        if copies:
            fits = self._lies_well(value, shape) and not (operator(stage.op).planes.flat(stage) and value.steps > 1)
            return _Target(value, copies[0]) if fits else None
        return _Target(flat) if readers or y.name in self._outputs else None

    def _agreed(self, stage: Stage, target: _Target, source: Value) -> _Target | None:
        """The target beside this source, of a stage whose values are both planes or neither."""
        traits = operator(stage.op).planes
        if not traits.alike or source.shape == target.value.shape:
            return target
        if traits.flat(stage):
            return None
        value = replace(target.value, width=source.width, steps=source.steps)
        return _Target(value) if target.copy is None and _is_dense(value) else None

    def _takes(self, reader: Stage, name: str, shape: Shape, value: Value) -> bool:
        """Whether a stage reads the value of this name, which would be `value`, as planes of this shape, and nowhere else."""
        if shape[0] == 1 and operator(reader.op).planes.by_elements(reader):
            return True
        traits, target = operator(reader.op).planes, self._targets.get(reader.outputs[0].name)
        places = [i for i, v in enumerate(reader.inputs) if v.name == name]
        if places[0] in traits.beside(reader):
            return len(places) == 1 and target is not None and _same(traits.written(reader), shape)
        if places != [0]:
            return False
        if target is not None:
            if traits.alike and self._agreed(reader, target, value) is None:
                return False
            reader = traits.over(reader, None, target.value)
        return (target is not None or not traits.together) and _same(operator(reader.op).planes.read(reader), shape)

    def _by_elements_alone(self, name: str) -> bool:
        """Whether it is the same to all readers of the value what rows it has."""
        return all(operator(r.op).planes.by_elements(r) for r in self._readers.get(name, []))

    def _may_come(self, stage: Stage) -> bool:
        """Whether the first input can be planes, as far as the stages before say."""
        shape, x = operator(stage.op).planes.read(stage), stage.inputs[0]
        maker = self._maker.get(x.name)
        if shape is None:
            return False
        if maker is None or _turned(maker, shape, back=False):
            return bool(self._sources(stage, {}))
        return _same(operator(maker.op).planes.written(maker), shape)

    def _sources(self, stage: Stage, planes: dict[str, Value]) -> list[Value]:
        """What the stage may read as planes in place of its first input, the best first."""
        shape, x = operator(stage.op).planes.read(stage), stage.inputs[0]
        if shape is None or [v.name for v in stage.inputs].count(x.name) != 1:
            return []
        found, maker = [], self._maker.get(x.name)
        turned = maker is not None and x.name not in self._replaced and _turned(maker, shape, back=False)
        if maker is not None and turned:
            source = self._in_order(maker.inputs[0], planes)
            found += [source] if source is not None and self._lies_well(source, shape) else []
        if x.name in planes:
            return [*found, planes[x.name]]
        lies = x.steps == 1 or (x.width == 1 and x.name in self._edges)  # one channel, as it lies
        return found if turned or shape[0] != 1 or not lies else [x]

    def _lies_well(self, value: Value, shape: Shape) -> bool:
        """Whether rows of the value have no gaps, or are rows of the image."""
        return _is_dense(value) or value.width == shape[2] or value.name in self._edges


def _is_dense(value: Value) -> bool:
    """Whether rows follow one another without gaps."""
    return value.steps == 1 or value.width % 64 == 0 or (value.dtype == "float32" and value.width % 16 == 0)


def _same(a: Shape | None, b: Shape) -> bool:
    """Whether planes lie alike: as many, of as many positions."""
    return a is not None and (a[0], prod(a)) == (b[0], prod(b))


def _turned(stage: Stage, shape: Shape, back: bool) -> bool:
    """Whether a stage copies planes of this shape into a row of channels for each position; back: the other way."""
    index = stage.attrs.get("index")
    if operator(stage.op).role is not Role.GATHER or index is None or len(index) != prod(shape):
        return False
    if stage.inputs[0].steps * stage.inputs[0].width != len(index) or stage.inputs[0].dtype not in ("float32", "int8"):
        return False
    columns = shape[0] if back else len(index) // shape[0]  # of what is turned
    rows = len(index) // columns
    if any(index[i] != i % rows * columns + i // rows for i in (0, len(index) // 2, len(index) - 1)):
        return False  # at a glance
    places = np.arange(len(index)).reshape(rows, columns).T
    return bool(np.array_equal(np.asarray(index), places.reshape(-1)))


def _used(stages: Sequence[Stage], outputs: set[str]) -> list[Stage]:
    """Without copies that nobody reads any more."""
    read, kept = set(outputs), []
    for stage in reversed(stages):
        if operator(stage.op).role is Role.GATHER and not {v.name for v in stage.outputs} & read:
            continue
        kept.append(stage)
        read |= {v.name for v in stage.inputs}
    return kept[::-1]
