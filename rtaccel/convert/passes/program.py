"""A lowered model: steps over named values, ready for the plan room. Immutable; its numbers can be replaced as a whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, fx

from rtaccel.convert.frontend.layout import View
from rtaccel.core.batch import BatchRange
from rtaccel.core.stage import GraphIO, QParams, QuantMap, Stage, Value
from rtaccel.plan.group import Subgraph


class Source(Protocol):
    """What a program was lowered from, without the numbers."""

    def decisions(self) -> dict[str, Any]:
        """How each layer is computed, as JSON holds it."""

    def relowered(self, decisions: Any) -> Program | None:
        """The program with these decisions; None where they are not those of this model's layers."""


@dataclass(frozen=True)
class SubgraphStep:
    """Stages that run as one. reads, writes: names in the environment, in the order of the group's ports."""

    group: Subgraph
    reads: tuple[str, ...]
    writes: tuple[str, ...]


@dataclass(frozen=True)
class FallbackStep:
    """One call that falls back to PyTorch. args may hold graph nodes, which stand for values."""

    node: fx.Node
    name: str
    reason: str


@dataclass(frozen=True)
class Argument:
    """What a flattened argument has to be: a tensor of a dtype and a shape (None: the batch), or with dtype None the very value
    that the model was exported with."""

    name: str
    dtype: torch.dtype | None = None
    shape: tuple[int | None, ...] = ()
    value: Any = None


@dataclass(frozen=True)
class Program:
    """steps in order. inputs: names of the flattened arguments; arguments: what each has to be.
    outputs: names, or constants as they are.

    constants: parameters that torch steps read. views: names that stand for a stored value seen in another way.
    casts: what those of the views are for torch and the caller that are stored in another dtype: truth values as float32, 1
        or 0, and int32 as int64.
    batched: dimension 0 of every tensor is the samples. batch: how many of them a call may have.
    source: what it was lowered from, without the numbers.
    notes: what was decided on the way and is worth reporting (which layers stayed float32 and why).
    """

    steps: tuple[SubgraphStep | FallbackStep, ...]
    inputs: tuple[str, ...]
    arguments: tuple[Argument, ...]
    outputs: tuple[Any, ...]
    constants: Mapping[str, Tensor]
    views: Mapping[str, View]
    casts: Mapping[str, torch.dtype]
    batched: bool
    batch: BatchRange
    in_spec: Any
    out_spec: Any
    notes: tuple[str, ...] = ()
    source: Source | None = None

    @property
    def stages(self) -> tuple[Stage, ...]:
        return tuple(stage for step in self.steps if isinstance(step, SubgraphStep) for stage in step.group.stages)

    def samples(self, arguments: Sequence[Any]) -> int:
        """How many samples a call with these flattened arguments has."""
        given = dict(zip(self.inputs, arguments))
        for step in self.steps:
            for name, port in zip(step.reads, step.group.inputs) if isinstance(step, SubgraphStep) else ():
                if isinstance(given.get(name), Tensor):
                    return given[name].shape[: port.lead].numel()
        first = next((a for a in arguments if isinstance(a, Tensor)), None)
        return first.shape[0] if self.batched and first is not None and first.dim() else 1

    def with_params(
        self,
        tensors: Sequence[Mapping[str, Tensor]],
        quants: QuantMap,
        attrs: Sequence[Mapping[str, Any]],
        constants: Mapping[str, Tensor],
    ) -> Program:
        """The same program with the weights and calibrated attributes of each stage, what each int8 value means, and the
        constants of torch's calls replaced."""
        queue = iter(zip(tensors, attrs))

        def value(v: Value) -> Value:
            return replace(v, quant=QParams(*quants[v.name])) if v.name in quants else v

        def stage(s: Stage) -> Stage:
            inputs, outputs = tuple(map(value, s.inputs)), tuple(map(value, s.outputs))
            # An int8 state that the stage carries on (a ring) holds what its input is.
            held = {v.name for v in s.outputs if v.quant is not None} & {v.name for v in s.inputs[1:]}
            held = held if inputs[0].quant is not None else set()

            def state(v: Value) -> Value:
                return replace(v, quant=inputs[0].quant) if v.name in held else v

            own, found = next(queue)
            return replace(
                s,
                tensors=own,
                inputs=tuple(map(state, inputs)),
                outputs=tuple(map(state, outputs)),
                attrs={**s.attrs, **found},
            )

        def port(p: GraphIO) -> GraphIO:
            return replace(p, value=value(p.value))

        def step(s: SubgraphStep | FallbackStep) -> SubgraphStep | FallbackStep:
            if isinstance(s, FallbackStep):
                return s
            g = s.group
            return replace(
                s,
                group=Subgraph(
                    tuple(stage(x) for x in g.stages), tuple(map(port, g.inputs)), tuple(map(port, g.outputs))
                ),
            )

        return replace(self, steps=tuple(step(s) for s in self.steps), constants=dict(constants))
