"""Results of a compiled model as its file has them: where they lie, and in the dtype that the model returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rtaccel.convert.frontend import layout
from rtaccel.convert.passes.program import Program, SubgraphStep
from rtaccel.core.registry import with_role
from rtaccel.core.stage import GraphIO, Stage, Value
from rtaccel.core.traits import Role

Chosen = tuple[Stage, str]


def as_returned(
    pairs: Sequence[Chosen], ports: Sequence[GraphIO], program: Program
) -> tuple[list[Chosen], list[GraphIO]]:
    """The stages (each with its kernel) and results, where those that are kept in another dtype get that of the model: int32 is
    kept as int64, truth values as float32. The stage that computes one writes it so, where no other reads what it wrote.

    A result has the rows that its stage writes: a plan may take an image as planes where the program has rows of channels."""
    made, results = list(pairs), []
    written = {value.name: value for stage, _ in pairs for value in stage.outputs}
    for name, port in zip(program.outputs, ports):
        port = replace(port, value=written.get(port.value.name, port.value))
        dtype = program.casts.get(name)
        if dtype is not None:
            value = replace(port.value, name=f"{port.value.name}:returned", dtype=str(dtype).removeprefix("torch."))
            made = _written_as(made, port.value, value)
            port = replace(port, value=value)
        results.append(port)
    return made, results


def _written_as(pairs: list[Chosen], kept: Value, value: Value) -> list[Chosen]:
    op = with_role(Role.WHOLE).name
    read = any(kept.name == v.name for stage, _ in pairs for v in stage.inputs)
    place = next(i for i, (stage, _) in enumerate(pairs) if any(kept.name == v.name for v in stage.outputs))
    stage, kernel = pairs[place]
    if stage.op == op and not read:
        return [*pairs[:place], (replace(stage, outputs=(value,)), kernel), *pairs[place + 1 :]]
    count = kept.steps * kept.width
    program = ("truth x0",) if value.dtype == "bool" else ("copy x0",)
    attrs = {"program": program, "dims": (count,), "places": ((0, 1),)}
    return [*pairs, (Stage(op, stage.name, (kept,), (value,), {}, attrs), "")]


def otherwise(program: Program, source: SubgraphStep) -> list[str]:
    """The results that are no value of the plan, or one that another result is too."""
    found = [_result(program, name, source) for name in program.outputs]
    taken = [None if result is None else result[0].value.name for result in found]
    return [
        f"number {i} ({name})"
        for i, (name, value) in enumerate(zip(program.outputs, taken))
        if value is None or value in taken[:i]
    ]


def results_of(program: Program, source: SubgraphStep) -> list[tuple[GraphIO, int]]:
    """In the order in which they are returned."""
    found = [_result(program, name, source) for name in program.outputs]
    return [result for result in found if result is not None]


def _result(program: Program, name: Any, source: SubgraphStep) -> tuple[GraphIO, int] | None:
    """How a result lies and which of its dimensions is the samples; None where it is not what the plan writes.

    The state of a recurrent layer lies samples first, [batch, layers, hidden], and is returned layers first.
    """
    ports = dict(zip(source.writes, source.group.outputs))
    if not isinstance(name, str):
        return None
    if name in ports and name not in program.casts:
        return ports[name], 0  # the shape of what is returned, whatever view the value of this name had
    view = program.views.get(name)
    port = None if view is None else ports.get(view.base)
    if view is None or port is None:
        return None
    dim, shape, dims = view.batch_dim, view.shape, view.dims
    if dim is not None:
        shape = (*shape[:dim], *shape[dim + 1 :])
        dims = (dims[dim], *dims[:dim], *dims[dim + 1 :])
    samples = None if dim is None else view.shape[dim]
    lying = layout.View(view.base, dims, view.offset)
    if (dim is None) != (port.lead == 0) or not layout.same_layout(lying, layout.dense(view.base, shape, samples)):
        return None
    if port.lead > 1 and dim:
        return None
    return replace(port, trailing=shape[max(port.lead - 1, 0) :]), dim or 0
