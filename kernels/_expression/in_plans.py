"""What a plan asks of expressions: which are squares of a value, or of what it is off another one; and what one is with an
activation behind it."""

from __future__ import annotations

from dataclasses import replace
from math import prod

from rtaccel.core.errors import UnsupportedProblem
from rtaccel.core.stage import Stage, Value
from rtaccel.core.stage_traits import Formula, Square, Squares
from rtaccel.kernels._common.strides import dense
from rtaccel.kernels._expression import operator
from rtaccel.kernels._expression.chain import schedule
from rtaccel.kernels._expression.merging import MAX_INSTRUCTIONS

_ALONE = ("mul x0 x0",)
_OFF = (("sub x0 x1", "mul t0 t0"), ("sub x1 x0", "mul t0 t0"))


class Programs(Squares):
    def made(self, stage: Stage) -> Square | None:
        program = tuple(stage.attrs["program"])
        if stage.tensors or any(v.dtype != "float32" for v in stage.inputs):
            return None
        dims, places = _whole(stage) if "dims" not in stage.attrs else operator.iteration(stage)
        whole, total = dense(dims), prod(dims)
        lies = [tuple(p) == whole and v.steps * v.width == total for v, p in zip(stage.inputs, places)]
        if program == _ALONE:
            return Square(stage.inputs[0]) if lies[0] else None
        if program not in _OFF:
            return None
        for x, about in ((0, 1), (1, 0)):
            if lies[x]:
                return Square(stage.inputs[x], stage.inputs[about], (dims, tuple(places[about])))
        return None


class Followed(Formula):
    def followed(self, stage: Stage, activation: tuple[str, float], y: Value) -> Stage | None:
        program = tuple(stage.attrs["program"])
        program = (*program, f"{activation[0]} t{len(program) - 1} {activation[1]!r}")
        made = replace(stage, outputs=(y,), attrs={**stage.attrs, "program": program})
        if len(program) > MAX_INSTRUCTIONS:
            return None
        try:
            schedule(operator.instructions(made), len(made.inputs), len(made.tensors))
        except UnsupportedProblem:  # too many results lie aside
            return None
        return made


def _whole(stage: Stage) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
    """The iteration over all rows of a sample, of an expression that treats rows alike."""
    y = stage.outputs[0]
    return (y.steps, y.width), [(0, v.width if v.steps > 1 else 0, int(v.width > 1)) for v in stage.inputs]
