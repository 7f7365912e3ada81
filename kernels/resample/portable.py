"""Resample in plain torch."""

from __future__ import annotations

from torch import Tensor

from rtaccel.core.registry import Impl, Prepared, register_impl
from rtaccel.core.stage import Problem, Stage
from rtaccel.kernels.resample import contract


def prepare(stage: Stage, problem: Problem) -> Prepared:
    low = contract.lower(stage)  # what it refuses, it refuses here too

    def call(x: Tensor) -> tuple[Tensor]:
        return (contract.summed(stage, x, low["weight"].to(x.device)),)

    return call


register_impl(Impl("resample", "portable_torch", "portable", 0, lambda problem: None, prepare))
