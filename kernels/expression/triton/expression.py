"""Expressions over rows that lie alike, in Triton: kernels/_general/triton_expression.py."""

from __future__ import annotations

from collections.abc import Iterator

from rtaccel.core.registry import register_impl
from rtaccel.core.stage import Problem, Stage, Value
from rtaccel.kernels._general.triton_expression import implementation, specialize
from rtaccel.kernels._gpu.triton_spec import WIDE_LOAD, Specialisation


def specializations() -> Iterator[Specialisation]:
    """The forms that are compiled and held to a budget without a GPU."""
    program = ("sub x0 x1", "exp t0", "div t1 x1", "maximum t2 0.5", "where x0 t3 t1", "sigmoid t4", "mul t5 x0")
    inputs = (Value("a", 1024), Value("b", 1024))
    stage = Stage("expression", "case", inputs, (Value("y", 1024),), {}, {"program": program})
    yield specialize(stage, Problem.of(stage, 256, "cuda")).with_requirements(WIDE_LOAD)


register_impl(implementation("expression"))
