"""Linear scan in plain torch, float32."""

from __future__ import annotations

from torch import Tensor

from rtaccel.core.registry import Impl, Prepared, register_impl
from rtaccel.core.stage import Problem, Stage
from rtaccel.kernels.linear_scan import contract


def prepare(stage: Stage, problem: Problem) -> Prepared:
    contract.lower(stage)

    def call(*inputs: Tensor) -> tuple[Tensor, ...]:
        return contract.compute(stage, *inputs)

    return call


register_impl(Impl("linear_scan", "portable_torch", "portable", 0, lambda problem: None, prepare))
