"""Fused linear of float32 rows for up to eight of them: linear's kernel of that name with a residual behind it."""

from __future__ import annotations

from collections.abc import Iterator

from rtaccel.core.registry import Impl, Prepared, register_impl
from rtaccel.core.stage import Problem, Stage
from rtaccel.kernels._gpu.triton_spec import WIDE_LOAD, Specialisation
from rtaccel.kernels.fused_linear import contract
from rtaccel.kernels.fused_linear.triton_tensor_core import form_of
from rtaccel.kernels.linear import triton_gemv_float


def supports(problem: Problem) -> str | None:
    if problem.attrs.get("quantise", "none") != "none":
        return "does not quantise x: its products are float32"
    return triton_gemv_float.supports(problem)


def prepare(stage: Stage, problem: Problem) -> Prepared:
    """x [M, K] and, where the stage has one, residual float32 [M, N] -> y [M, N]; any M, best for problem.rows."""
    return triton_gemv_float.prepared("fused_linear", form_of(problem), contract.lower(stage), problem)


def specialisations() -> Iterator[Specialisation]:
    """The form that is compiled and held to a budget without a GPU."""
    stage = contract.make_stage(1024, 1024, "w4a16", residual=True)
    yield triton_gemv_float.specialise(form_of(Problem.of(stage, 1, "cuda")), 1).demanding(WIDE_LOAD, "FFMA")


register_impl(Impl("fused_linear", "triton_gemv_float", "triton", 20, supports, prepare))
