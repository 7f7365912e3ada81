"""Position in plain torch."""

from __future__ import annotations

from torch import Tensor

from rtaccel.core.registry import Impl, Prepared, register_impl
from rtaccel.core.stage import Problem, Stage
from rtaccel.kernels.position import contract


def prepare(stage: Stage, problem: Problem) -> Prepared:
    table = contract.lower(stage)["table"].reshape(stage.inputs[0].shape)

    def call(x: Tensor) -> tuple[Tensor]:
        return (x + table,)

    return call


register_impl(Impl("position", "portable_torch", "portable", 0, lambda problem: None, prepare))
