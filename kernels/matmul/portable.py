"""Matmul in plain torch."""

from __future__ import annotations

from torch import Tensor

from rtaccel.core.registry import Impl, Prepared, register_impl
from rtaccel.core.stage import Problem, Stage
from rtaccel.kernels.matmul import contract


def prepare(stage: Stage, problem: Problem) -> Prepared:
    contract.lower(stage)  # what it refuses, it refuses here too

    def call(*inputs: Tensor) -> tuple[Tensor]:
        left, right = contract.operands(stage, *inputs)
        return ((left @ right).reshape(inputs[0].shape[0], *stage.outputs[0].shape),)

    return call


register_impl(Impl("matmul", "portable_torch", "portable", 0, lambda problem: None, prepare))
