"""Expressions in Triton: the program of a stage as one kernel, for the operators `expression` and `strided_expression`.

Every result of the program is a variable in registers: the compiler finds what is shared and what is never read.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from rtaccel.core.registry import Impl, Prepared
from rtaccel.core.stage import Problem, Stage
from rtaccel.kernels._expression import operator
from rtaccel.kernels._expression.functions import FUNCTIONS
from rtaccel.kernels._expression.program import Instruction
from rtaccel.kernels._general.triton_functions import TEXT
from rtaccel.kernels._general.triton_places import digits, joined
from rtaccel.kernels._general.triton_tile import Text, too_large
from rtaccel.kernels._gpu.triton_spec import Specialisation


def number(value: float) -> str:
    """A tile of one element: two numbers are then an operand as well as tiles are."""
    finite = value == value and abs(value) != float("inf")
    plain = repr(value) if finite else f'float("{value}")'
    return f"tl.full((1, 1), {plain}, tl.float32)"


def statement(index: int, step: Instruction) -> str:
    """One instruction of a program."""
    operands = [number(o) if isinstance(o, float) else f"{o[0]}{o[1]}" for o in step.operands]
    if step.name == "copy":
        return f"t{index} = {operands[0]}"
    if step.name in FUNCTIONS:
        return f"t{index} = {TEXT[step.name].format(*operands)}"
    return f't{index} = activate({operands[0]}, {step.parameter!r}, "{step.name}")'


def text(stage: Stage) -> Text:
    steps: Sequence[Instruction] = operator.instructions(stage)
    whole, found = operator.iteration(stage)
    dims, places = joined(whole, found)
    made = Text(prod(whole), stage.inputs, stage.outputs[0])
    made.add(*digits(dims, "e", "d"))
    used = {o for step in steps for o in step.operands if isinstance(o, tuple)}
    for i, value in enumerate(stage.inputs):
        if ("x", i) in used:
            made.strided(f"x{i}", i, places[i], "d")
            made.real(f"x{i}", value.dtype)
    for i, tensor in enumerate(operator.constants(stage)):
        if ("c", i) in used:
            made.keep(f"c{i}", tensor.float())
            made.strided(f"c{i}", None, places[len(stage.inputs) + i], "d")
    made.add(*(statement(i, step) for i, step in enumerate(steps)), f"y = t{len(steps) - 1}")
    return made


def specialize(stage: Stage, problem: Problem) -> Specialisation:
    rows = problem.rows if operator.strided(stage) else problem.matrix_rows
    return text(stage).specialize(f"{stage.op}_{len(stage.attrs['program'])}", rows)


def prepare(stage: Stage, problem: Problem) -> Prepared:
    """Inputs [M, ...] -> y [M, ...]; any M."""
    if not operator.strided(stage):
        stage = stage.matrices()
    return text(stage).launcher(stage, specialize(stage, problem), problem.device)


def supports(problem: Problem) -> str | None:
    if any(d not in ("float32", "int64") for d in problem.in_dtypes):
        return "reads float32 and int64"
    return too_large(problem)


def implementation(name: str) -> Impl:
    return Impl(name, "triton_expression", "triton", 10, supports, prepare)
