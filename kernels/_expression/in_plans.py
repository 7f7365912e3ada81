"""What a plan asks of expressions: which are squares of a value, or of what it is off another one; which are differences of two
operands; and what one is with an activation behind it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import prod

import torch
from torch import Tensor

from rtaccel.core.errors import UnsupportedProblem
from rtaccel.core.stage import Stage, Value
from rtaccel.core.stage_traits import Differences, Formula, Pairs, Square, Squares
from rtaccel.kernels._common.strides import dense
from rtaccel.kernels._expression import operator
from rtaccel.kernels._expression.chain import schedule
from rtaccel.kernels._expression.merging import MAX_INSTRUCTIONS
from rtaccel.kernels._expression.program import Instruction

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


class TwoOperands(Pairs):
    def differences(self, stage: Stage) -> Differences | None:
        first, *rest = operator.instructions(stage)
        pair = [o for o in first.operands if isinstance(o, tuple)]
        if first.name != "sub" or len(set(pair)) != 2 or any(v.dtype != "float32" for v in stage.inputs):
            return None
        constants = operator.constants(stage)
        given = {("x", i): v for i, v in enumerate(stage.inputs)} | {("c", i): c for i, c in enumerate(constants)}
        dims, found = operator.iteration(stage)
        places = dict(zip(given, (tuple(p) for p in found)))
        term = _Term({i: (c, places["c", i]) for i, c in enumerate(constants)})
        for i, instruction in enumerate(rest):
            if not term.goes_on(instruction, ("t", i)):
                return None
        if term.of == "differences" or {kind for kind, _ in pair} == {"c"}:
            return None
        weights = term.weights()
        if weights is None or given.keys() - {*pair, *(("c", i) for i in term.used)}:
            return None
        return Differences(
            term.of, dims, (given[pair[0]], given[pair[1]]), (places[pair[0]], places[pair[1]]),
            None if term.plain else weights, term.place,
        )  # fmt: skip


class _Term:
    """What a program makes of a difference: this times numbers, its magnitude, or its square.

    constants: each with its place. Those that a difference is multiplied by have one place."""

    def __init__(self, constants: Mapping[int, tuple[Tensor, tuple[int, ...]]]) -> None:
        self.of = "differences"
        self.used: set[int] = set()
        self.place: tuple[int, ...] = ()
        self._constants = constants
        self._factor = torch.ones((), dtype=torch.float64)

    def goes_on(self, instruction: Instruction, last: tuple[str, int]) -> bool:
        """With an instruction about the last result; False where it is none of these."""
        name, operands = instruction.name, instruction.operands
        if name == "abs" and operands == (last,):
            self.of, self._factor = "squares" if self.of == "squares" else "magnitudes", self._factor.abs()
        elif name == "neg" and operands == (last,):
            self._factor = -self._factor
        elif name == "mul" and operands == (last, last) and self.of != "squares":
            self.of, self._factor = "squares", self._factor.square()
        elif name in ("mul", "div") and last in operands and (name == "mul" or operands[0] == last):
            other = operands[1 - operands.index(last)]
            number = (
                torch.tensor(other, dtype=torch.float64) if isinstance(other, (int, float)) else self._constant(other)
            )
            if number is None:
                return False
            self._factor = self._factor * number if name == "mul" else self._factor / number
        else:
            return False
        return True

    def _constant(self, operand: tuple[str, int]) -> Tensor | None:
        if operand[0] != "c":
            return None
        tensor, place = self._constants[operand[1]]
        if self.place not in ((), place):
            return None
        self.place = place
        self.used.add(operand[1])
        return tensor.detach().double().reshape(-1)

    @property
    def plain(self) -> bool:
        return not self.used and bool(self._factor == 1)

    def weights(self) -> Tensor | None:
        """None where float32 does not hold them: what overflows or is lost with them was finite, or not 0."""
        found = self._factor.float()
        tiny = torch.finfo(torch.float32).tiny
        held = found.isfinite() & ((self._factor == 0) | (found.abs() >= tiny))
        return found if bool(held.all()) else None


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
