"""Embedding in plain torch."""

from __future__ import annotations

from torch import Tensor

from rtaccel.core.registry import Impl, Prepared, register_impl
from rtaccel.core.stage import Problem, Stage
from rtaccel.core.weight_format import WeightFormat
from rtaccel.kernels.embedding import contract


def supports(problem: Problem) -> str | None:
    if problem.weight_format in (WeightFormat.FLOAT32, WeightFormat.INT8):
        return None
    return f"has no form for {problem.weight_format} weights"


def prepare(stage: Stage, problem: Problem) -> Prepared:
    rows = stage.tensors["weight"].shape[0]

    def call(index: Tensor) -> tuple[Tensor]:
        contract.require_rows(index, rows)
        return (contract.look_up(stage, index),)

    return call


register_impl(Impl("embedding", "portable_torch", "portable", 0, supports, prepare))
