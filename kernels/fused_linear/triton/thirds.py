"""Fused linear of few float32 rows of large layers, by thirds of x: linear's kernel of that name with a residual behind it."""

from __future__ import annotations

from collections.abc import Iterator

from rtaccel.core.registry import Impl, Prepared, register_impl
from rtaccel.core.stage import Problem, Stage
from rtaccel.kernels._gpu.triton_spec import BF16_MMA, WIDE_LOAD, Specialisation
from rtaccel.kernels.fused_linear import contract
from rtaccel.kernels.fused_linear.triton.tensor_core import select_config
from rtaccel.kernels.linear.triton import thirds_config


def supports(problem: Problem) -> str | None:
    if problem.attrs.get("input_format", "none") != "none":
        return "does not quantize x: its products are those of bfloat16 numbers"
    return thirds_config.supports(problem)


def prepare(stage: Stage, problem: Problem) -> Prepared:
    """x [M, K] and, where the stage has one, residual float32 [M, N] -> y [M, N]; any M, best for those of the problem."""
    return thirds_config.prepared("fused_linear", select_config(problem), contract.lower(stage), problem)


def specializations() -> Iterator[Specialisation]:
    """The form that is compiled and held to a budget without a GPU."""
    stage = contract.make_stage(4096, 4096, "w4a16", residual=True)
    spec = thirds_config.specialize(select_config(Problem.of(stage, 1, "cuda")), 1)
    yield spec.with_requirements(BF16_MMA, WIDE_LOAD)


register_impl(Impl("fused_linear", "triton_thirds", "triton", 22, supports, prepare))
