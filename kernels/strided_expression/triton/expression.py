"""Expressions over strided values, in Triton: kernels/_general/triton_expression.py."""

from __future__ import annotations

from collections.abc import Iterator

from rtaccel.core.registry import register_impl
from rtaccel.core.stage import Problem, Stage, Value
from rtaccel.kernels._general.triton_expression import implementation, specialize
from rtaccel.kernels._gpu.triton_spec import Specialisation


def specializations() -> Iterator[Specialisation]:
    """The forms that are compiled and held to a budget without a GPU."""
    x, gate, y = Value("x", 64, steps=196), Value("gate", 64), Value("y", 196, steps=64)
    attrs = {"program": ("sigmoid x1", "mul x0 t0"), "dims": (64, 196), "places": ((0, 1, 64), (0, 1, 0))}
    stage = Stage("strided_expression", "case", (x, gate), (y,), {}, attrs)  # channels first, gated by channel
    yield specialize(stage, Problem.of(stage, 1, "cuda"))


register_impl(implementation("strided_expression"))
