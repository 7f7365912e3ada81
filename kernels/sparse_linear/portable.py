"""Sparse linear in plain torch: the weight with its zeros, computed as `linear` computes it. Right anywhere, never fast."""

from __future__ import annotations

from torch import Tensor

from rtaccel.core.registry import Impl, Prepared, register_impl
from rtaccel.core.stage import Problem, Stage
from rtaccel.core.weight_format import WeightFormat
from rtaccel.kernels.linear import portable
from rtaccel.kernels.sparse_linear import contract


def supports(problem: Problem) -> str | None:
    if problem.weight_format in (WeightFormat.FLOAT32, WeightFormat.BFLOAT16, WeightFormat.INT8, WeightFormat.INT4):
        return None
    return f"has no form for {problem.weight_format} weights"


def prepare(stage: Stage, problem: Problem) -> Prepared:
    dense = contract.dense_stage(stage)
    call = portable.prepare(dense, Problem.of(dense, problem.rows, problem.device))

    def checked(x: Tensor, *row_scale: Tensor) -> tuple[Tensor]:
        (y,) = call(x, *row_scale)
        return (contract.nonfinite(x, y),)

    return checked


register_impl(Impl("sparse_linear", "portable_torch", "portable", 0, supports, prepare))
