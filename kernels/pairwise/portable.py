"""Pairwise in plain torch."""

from __future__ import annotations

from torch import Tensor

from rtaccel.core.registry import Impl, Prepared, register_impl
from rtaccel.core.stage import Problem, Stage
from rtaccel.kernels.pairwise import contract


def prepare(stage: Stage, problem: Problem) -> Prepared:
    contract.lower(stage)  # what it refuses, it refuses here too

    def call(*inputs: Tensor) -> tuple[Tensor]:
        y = contract.joined(stage, *contract.operands(stage, *inputs))
        return (y.reshape(inputs[0].shape[0], *stage.outputs[0].shape),)

    return call


register_impl(Impl("pairwise", "portable_torch", "portable", 0, lambda problem: None, prepare))
