"""Fused linear of float32 rows for up to eight of them: linear's kernel of that name with a residual behind it."""

from __future__ import annotations

from collections.abc import Iterator

from rtaccel.core.registry import Impl, Prepared, register_impl
from rtaccel.core.stage import Problem, Stage
from rtaccel.kernels._gpu.triton_spec import WIDE_LOAD, Specialisation
from rtaccel.kernels.fused_linear import contract
from rtaccel.kernels.fused_linear.triton.tensor_core import select_config
from rtaccel.kernels.linear.triton import gemv_float


def supports(problem: Problem) -> str | None:
    if problem.attrs.get("input_format", "none") != "none":
        return "does not quantize x: its products are float32"
    return gemv_float.supports(problem)


def prepare(stage: Stage, problem: Problem) -> Prepared:
    """x [M, K] and, where the stage has one, residual float32 [M, N] -> y [M, N]; any M, best for those of the problem."""
    return gemv_float.prepared("fused_linear", select_config(problem), contract.lower(stage), problem)


def specializations() -> Iterator[Specialisation]:
    """The form that is compiled and held to a budget without a GPU."""
    stage = contract.make_stage(1024, 1024, "w4a16", residual=True)
    yield gemv_float.specialize(select_config(Problem.of(stage, 1, "cuda")), 1).with_requirements(WIDE_LOAD, "FFMA")


register_impl(Impl("fused_linear", "triton_gemv_float", "triton", 20, supports, prepare))
