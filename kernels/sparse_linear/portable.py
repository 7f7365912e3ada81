"""Sparse linear in plain torch: the weight with its zeros, computed as `linear` computes it. Right anywhere, never fast."""

from __future__ import annotations

from torch import Tensor

from rtaccel.core.registry import Impl, Prepared, register_impl
from rtaccel.core.stage import Problem, Stage
from rtaccel.kernels.linear import portable
from rtaccel.kernels.sparse_linear import contract


def supports(problem: Problem) -> str | None:
    if problem.weight_dtype in ("float32", "bfloat16", "int8", "uint8"):
        return None
    return f"has no form for {problem.weight_dtype} weights"


def prepare(stage: Stage, problem: Problem) -> Prepared:
    dense = contract.dense_stage(stage)
    call = portable.prepare(dense, Problem.of(dense, problem.rows, problem.device))

    def checked(x: Tensor, *row_scale: Tensor) -> tuple[Tensor]:
        (y,) = call(x, *row_scale)
        return (contract.nonfinite(x, y),)

    return checked


register_impl(Impl("sparse_linear", "portable_torch", "portable", 0, supports, prepare))
