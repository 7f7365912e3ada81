"""Position in plain torch."""

from __future__ import annotations

from torch import Tensor

from rtaccel.core.registry import Impl, Prepared, register_impl
from rtaccel.core.stage import Problem, Stage
from rtaccel.kernels.position import contract


def prepare(stage: Stage, problem: Problem) -> Prepared:
    table = contract.lower(stage)["table"].reshape(-1, *stage.inputs[0].shape)

    def call(*inputs: Tensor) -> tuple[Tensor, ...]:
        return (inputs[0] + table[0],) if len(inputs) == 1 else contract.reference(stage, *inputs)

    return call


register_impl(Impl("position", "portable_torch", "portable", 0, lambda problem: None, prepare))
