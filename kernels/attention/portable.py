"""Multi-head attention in plain torch, float32."""

from __future__ import annotations

from torch import Tensor

from rtaccel.core.registry import Impl, Prepared, register_impl
from rtaccel.core.stage import Problem, Stage
from rtaccel.kernels.attention import contract


def prepare(stage: Stage, problem: Problem) -> Prepared:
    low = contract.lower(stage)

    def call(*inputs: Tensor) -> tuple[Tensor]:
        parts = contract.take_apart(stage, low, inputs)
        p = contract.probabilities(low, contract.scores(low, parts))
        return contract.output(stage, low, p @ parts.v)

    return call


register_impl(Impl("attention", "portable_torch", "portable", 0, lambda problem: None, prepare))
