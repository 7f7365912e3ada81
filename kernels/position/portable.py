"""Position in plain torch."""

from __future__ import annotations

from torch import Tensor

from rtaccel.core.registry import Impl, Prepared, register_impl
from rtaccel.core.stage import Problem, Stage
from rtaccel.kernels.position import contract


def prepare(stage: Stage, problem: Problem) -> Prepared:
    def call(*inputs: Tensor) -> tuple[Tensor, ...]:
        return contract.reference(stage, *inputs)

    return call


register_impl(Impl("position", "portable_torch", "portable", 0, lambda problem: None, prepare))
