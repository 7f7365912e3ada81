"""Grid sample in plain torch."""

from __future__ import annotations

from torch import Tensor

from rtaccel.core.registry import Impl, Prepared, register_impl
from rtaccel.core.stage import Problem, Stage
from rtaccel.kernels.grid_sample import contract


def prepare(stage: Stage, problem: Problem) -> Prepared:
    contract.lower(stage)  # what it refuses, it refuses here too

    def call(x: Tensor, *given: Tensor) -> tuple[Tensor]:
        return (contract.sampled(stage, x, *contract.taps_of(stage, contract.grid_of(stage, x, *given))),)

    return call


register_impl(Impl("grid_sample", "portable_torch", "portable", 0, lambda problem: None, prepare))
