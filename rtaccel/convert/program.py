"""A lowered model: steps over named values, ready for the plan room. Immutable; its numbers can be replaced as a whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, fx

from rtaccel.convert.layout import View
from rtaccel.core.stage import Port, Quant, Stage, Value
from rtaccel.plan.group import Group


@dataclass(frozen=True)
class GroupStep:
    """Stages that run as one. reads, writes: names in the environment, in the order of the group's ports."""

    group: Group
    reads: tuple[str, ...]
    writes: tuple[str, ...]


@dataclass(frozen=True)
class TorchStep:
    """One call that stays torch's. args may hold graph nodes, which stand for values."""

    node: fx.Node
    name: str
    reason: str


@dataclass(frozen=True)
class Program:
    """steps in order. inputs: names of the flattened arguments. shapes: theirs in the capture.
    outputs: names, or constants as they are.

    constants: parameters that torch steps read. views: names that stand for a stored value seen in another way.
    batched: dimension 0 of every tensor is the samples; any_batch: their number may change.
    notes: what was decided on the way and is worth reporting (which layers stayed float32 and why).
    """

    steps: tuple[GroupStep | TorchStep, ...]
    inputs: tuple[str, ...]
    shapes: tuple[Any, ...]
    outputs: tuple[Any, ...]
    constants: Mapping[str, Tensor]
    views: Mapping[str, View]
    batched: bool
    any_batch: bool
    in_spec: Any
    out_spec: Any
    notes: tuple[str, ...] = ()

    @property
    def stages(self) -> tuple[Stage, ...]:
        return tuple(stage for step in self.steps if isinstance(step, GroupStep) for stage in step.group.stages)

    def with_numbers(self, tensors: Sequence[Mapping[str, Tensor]], quants: Mapping[str, Quant]) -> Program:
        """The same program with the weights of each stage and the scales of each int8 value replaced."""
        queue = iter(tensors)

        def value(v: Value) -> Value:
            return replace(v, quant=quants[v.name]) if v.quant is not None else v

        def stage(s: Stage) -> Stage:
            return replace(
                s, tensors=next(queue), inputs=tuple(map(value, s.inputs)), outputs=tuple(map(value, s.outputs))
            )

        def port(p: Port) -> Port:
            return replace(p, value=value(p.value))

        def step(s: GroupStep | TorchStep) -> GroupStep | TorchStep:
            if isinstance(s, TorchStep):
                return s
            g = s.group
            return replace(
                s,
                group=Group(tuple(stage(x) for x in g.stages), tuple(map(port, g.inputs)), tuple(map(port, g.outputs))),
            )

        return replace(self, steps=tuple(step(s) for s in self.steps))
