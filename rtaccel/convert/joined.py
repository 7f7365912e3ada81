"""Two programs as one: what the first gives is what the second reads, in one plan.

A stream may begin with a program that has no past: feature extraction, an encoder of a chunk of samples. Its values and stages
get a prefix, so that no name means two things.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from rtaccel.convert.passes.program import Program, Source, SubgraphStep
from rtaccel.core.errors import ShapeError
from rtaccel.core.stage import GraphIO, Stage, Value
from rtaccel.plan.group import Subgraph

FRONT = "front"
_BACK = "model"


@dataclass(frozen=True)
class JoinedSkeleton:
    """What a joined program was lowered from."""

    front: Source
    back: Source

    def decisions(self) -> dict[str, Any]:
        """Of every layer of both, as JSON holds it."""
        return {FRONT: self.front.decisions(), _BACK: self.back.decisions()}

    def relowered(self, decisions: Any) -> Program | None:
        """The program with these decisions; None where they are not those of these two."""
        if not isinstance(decisions, dict) or decisions.keys() != {FRONT, _BACK}:
            return None
        front, back = self.front.relowered(decisions[FRONT]), self.back.relowered(decisions[_BACK])
        return None if front is None or back is None else joined("load_state_dict", front, back)


def joined(op: str, front: Program, back: Program) -> Program:
    """One program: `front`, then `back` on its result. Both are one native group of one input and one output.

    The arguments are those of `front`, the results those of `back`; the range of samples is that of both. Raises ShapeError
    where the result of one is not what the other reads.
    """
    first, second = front.steps[0], back.steps[0]
    assert isinstance(first, SubgraphStep) and isinstance(second, SubgraphStep)
    made, read = first.group.outputs[0].value, second.group.inputs[0].value
    if (made.dtype, made.steps * made.width) != (read.dtype, read.steps * read.width):
        raise ShapeError(
            op,
            f"a front that gives {made.dtype}[{made.steps * made.width}]",
            f"{read.dtype}[{read.steps * read.width}], a time step of the model",
            "Match the two.",
        )
    stages = [_prefixed(stage) for stage in first.group.stages]
    if made.shape == read.shape:
        stages = [_handing_on(stage, f"{FRONT}:{made.name}", read) for stage in stages]
    else:  # the same elements in other rows
        index = tuple(range(made.steps * made.width))
        stages.append(Stage("rearrange", f"{FRONT}.rows", (_named(made),), (read,), attrs={"index": index}))
    ports = tuple(replace(p, value=_named(p.value)) for p in first.group.inputs)
    group = Subgraph((*stages, *second.group.stages), ports, second.group.outputs)
    assert front.source is not None and back.source is not None
    return replace(
        back,
        steps=(SubgraphStep(group, first.reads, second.writes),),
        inputs=front.inputs,
        arguments=front.arguments,
        in_spec=front.in_spec,
        batch=back.batch.cut(front.batch.lo, front.batch.hi),
        notes=(*front.notes, *back.notes),
        source=JoinedSkeleton(front.source, back.source),
    )


def one_group(program: Program) -> GraphIO | None:
    """The result of a program of one native group with one input and one output; None for any other."""
    step = program.steps[0] if len(program.steps) == 1 else None
    if not isinstance(step, SubgraphStep) or len(step.group.inputs) != 1 or len(step.group.outputs) != 1:
        return None
    edge = step.group.inputs[0].value, step.group.outputs[0].value
    return step.group.outputs[0] if edge[0].name != edge[1].name else None


def _named(value: Value) -> Value:
    return replace(value, name=f"{FRONT}:{value.name}")


def _prefixed(stage: Stage) -> Stage:
    inputs, outputs = tuple(map(_named, stage.inputs)), tuple(map(_named, stage.outputs))
    return replace(stage, name=f"{FRONT}.{stage.name}", inputs=inputs, outputs=outputs)


def _handing_on(stage: Stage, name: str, read: Value) -> Stage:
    """With the value of this name called as the second program calls it."""

    def value(v: Value) -> Value:
        return replace(v, name=read.name) if v.name == name else v

    return replace(stage, inputs=tuple(map(value, stage.inputs)), outputs=tuple(map(value, stage.outputs)))
