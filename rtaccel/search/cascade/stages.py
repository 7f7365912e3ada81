"""What a cascade can be made of: compiled models that each are one native plan, with answers that can stand for each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rtaccel.core.errors import FormatError, ShapeError, UnsupportedProblem
from rtaccel.core.stage import GraphIO
from rtaccel.nn.check import dense
from rtaccel.runtime.compiled import CompiledModel
from rtaccel.runtime.inputs import check_tensor, wanted
from rtaccel.runtime.stream import StreamModel

SKIPPED = ("hold", "advance")


@dataclass(frozen=True)
class Stages:
    """Checked models. heads: none, or one for each. streams: number of streams, 0 where no stage has states.
    advance: whether a stage with states makes its step for rows that have left."""

    models: tuple[CompiledModel, ...]
    heads: tuple[CompiledModel, ...]
    streams: int
    advance: tuple[bool, ...]

    @property
    def input(self) -> GraphIO:
        return _ports(self.models[0])[0]

    @property
    def output(self) -> GraphIO:
        return _ports((self.heads or self.models)[0])[1]

    @property
    def features(self) -> GraphIO | None:
        """With heads, what the first plan gives."""
        return _ports(self.models[0])[1] if self.heads else None

    @property
    def all(self) -> tuple[CompiledModel, ...]:
        return (*self.models, *self.heads)

    @property
    def plans(self) -> list[Any]:
        return [plan_of(model) for model in self.models]

    def empty(self, port: GraphIO, rows: int) -> Tensor:
        return torch.empty((rows, *port.trailing), dtype=getattr(torch, port.value.dtype), device="cpu")

    def check_rows(self, op: str, rows: int) -> None:
        """Raises ShapeError for a number of rows that a stage does not take. Where rows can leave, every smaller one comes up."""
        for model in self.all:
            model._options.check_batch(op, rows)


def plan_of(model: CompiledModel) -> Any:
    """Its native plan."""
    return model._executor.steps[0].plan


def checked_stages(op: str, stages: Any, heads: Any, skipped: Any) -> Stages:
    """Raises UnsupportedProblem for what is no native plan of one input and one output, ShapeError for stages that do not fit
    each other, FormatError for other arguments."""
    models = _models(op, "stage", stages)
    given_heads = () if heads is None else _models(op, "head", heads)
    if heads is not None and len(given_heads) != len(models):
        raise FormatError(op, f"{len(given_heads)} heads for {len(models)} stages", "one for each", "Match them.")
    _check_twice(op, (*models, *given_heads))
    first = _ports(models[0])
    answer = _ports((given_heads or models)[0])[1]
    if answer.value.dtype != "float32":
        raise ShapeError(op, f"answers of {answer.value.dtype}", "float32", "Give the models float outputs.")
    for index, model in enumerate(models):
        into, out = _ports(model)
        before = first[0] if index == 0 or not given_heads else _ports(models[index - 1])[1]
        _same(op, f"input of stage {index}", into, before, "what it is given")
        if given_heads:
            _same(op, f"input of head {index}", _ports(given_heads[index])[0], out, "the features of its stage")
            out = _ports(given_heads[index])[1]
        _same(op, f"answer of stage {index}", out, answer, "as stage 0 gives")
    advance = _advance(op, skipped, models)
    return Stages(models, given_heads, _streams(op, models, given_heads), advance)


def _models(op: str, what: str, given: Any) -> tuple[CompiledModel, ...]:
    if not isinstance(given, Sequence) or not given:
        raise FormatError(op, f"{what}s {type(given).__name__}", "a list of compiled models", "Pass a list.")
    for index, model in enumerate(given):
        if not isinstance(model, CompiledModel):
            raise UnsupportedProblem(
                op, f"{what} {index}: a {type(model).__name__}", "a compiled model or a stream",
                "Compile it with rt.compile or rt.stream first.",
            )  # fmt: skip
        executor = model._executor
        if executor.direct is None or not executor.steps[0].native:
            raise UnsupportedProblem(
                op, f"{what} {index}: {model._options.title} with {len(executor.steps)} steps on {model._options.device}",
                "one native plan on the CPU", "See its explain().",
            )  # fmt: skip
        source = executor.steps[0].source
        inputs, outputs = len(source.reads), len(source.writes)  # type: ignore[union-attr]
        if inputs != 1 or outputs != 1 or executor.program.out_spec.num_children:
            raise UnsupportedProblem(
                op, f"{what} {index}: {inputs} inputs and {outputs} outputs", "one tensor in and one out",
                "Wrap the model so that it takes and gives one tensor.",
            )  # fmt: skip
        into, out = _ports(model)
        if into.lead != 1 or out.lead != 1:
            raise UnsupportedProblem(
                op, f"{what} {index}: {wanted(into, 'cpu')} to {wanted(out, 'cpu')}", "a row in for a row out",
                "Give the model samples in its first dimension alone.",
            )  # fmt: skip
        batch = model._options.batch
        if model._options.states is None and 1 not in batch:
            raise UnsupportedProblem(
                op, f"{what} {index} for a batch {batch}", "one that takes any number of rows: each leaves by itself",
                "; ".join(batch.why) or "Compile it with a dynamic batch, or for a batch of 1.",
            )  # fmt: skip
    return tuple(given)


def _check_twice(op: str, models: Sequence[CompiledModel]) -> None:
    for index, model in enumerate(models):
        if any(model is other for other in models[:index]) and model._options.states is not None:
            raise UnsupportedProblem(
                op, "a stream as two stages", "streams of their own: its past would move twice", "Make another."
            )


def _ports(model: CompiledModel) -> tuple[GraphIO, GraphIO]:
    group = model._executor.steps[0].source.group  # type: ignore[union-attr]
    return group.inputs[0], group.outputs[0]


def _same(op: str, what: str, got: GraphIO, expected: GraphIO, why: str) -> None:
    if (got.value.dtype, got.lead, got.trailing) != (expected.value.dtype, expected.lead, expected.trailing):
        raise ShapeError(
            op, f"{what}: {wanted(got, 'cpu')}", f"{wanted(expected, 'cpu')}, {why}",
            "Answers and inputs of the stages have one shape and dtype: pad or wrap the smaller model.",
        )  # fmt: skip


def _streams(op: str, models: Sequence[CompiledModel], heads: Sequence[CompiledModel]) -> int:
    counts = {m._options.states.samples for m in (*models, *heads) if m._options.states is not None}
    if counts and heads:
        raise UnsupportedProblem(
            op, "streams with heads", "stages that each read the input", "Leave heads= out, or compile without states."
        )
    if len(counts) > 1:
        raise ShapeError(op, f"stages of {sorted(counts)} streams", "the same number in all", "Make them for as many.")
    if counts and _ports(models[0])[0].value.dtype != "float32":
        raise UnsupportedProblem(
            op, "streams of indices", "float32 time steps: a stage that refuses an index would come after one that has moved",
            "Embed the index outside.",
        )  # fmt: skip
    return counts.pop() if counts else 0


def _advance(op: str, skipped: Any, models: Sequence[CompiledModel]) -> tuple[bool, ...]:
    each = [skipped] * len(models) if isinstance(skipped, str) else list(skipped)
    if len(each) != len(models) or any(one not in SKIPPED for one in each):
        raise FormatError(
            op, f"skipped={skipped!r}", "'hold' or 'advance', or one of them for each stage", "See rt.Cascade."
        )
    return tuple(
        one == "advance" and (isinstance(model, StreamModel) and model._options.states is not None)
        for one, model in zip(each, models)
    )


def fitted_input(op: str, x: Any, port: GraphIO) -> Tensor:
    """The input as a dense tensor. Raises ShapeError for one that does not fit."""
    check_tensor(op, "input", x, port, "cpu")
    return dense(x.detach())
