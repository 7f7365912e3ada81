"""Reduce in plain torch."""

from __future__ import annotations

from torch import Tensor

from rtaccel.core.registry import Impl, Prepared, register_impl
from rtaccel.core.stage import Problem, Stage
from rtaccel.kernels.reduce import contract


def prepare(stage: Stage, problem: Problem) -> Prepared:
    contract.lower(stage)  # what it refuses, it refuses here too

    def call(x: Tensor, *about: Tensor) -> tuple[Tensor]:
        y = contract.joined(stage.attrs["kind"], contract.terms(stage, x, *about))
        return (y.reshape(x.shape[0], *stage.outputs[0].shape),)

    return call


register_impl(Impl("reduce", "portable_torch", "portable", 0, lambda problem: None, prepare))
