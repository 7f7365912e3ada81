"""Pointwise in plain torch."""

from __future__ import annotations

from torch import Tensor

from rtaccel.core.registry import Impl, Prepared, register_impl
from rtaccel.core.stage import Problem, Stage
from rtaccel.kernels._common import activations
from rtaccel.kernels.pointwise import contract


def prepare(stage: Stage, problem: Problem) -> Prepared:
    low = contract.lower(stage)

    def call(x: Tensor, other: Tensor | None = None) -> tuple[Tensor]:
        t = contract.before_activation(stage, x, other)
        return (contract.epilogue(low, activations.apply(low["activation"], t, low["activation_parameter"])),)

    return call


register_impl(Impl("pointwise", "portable_torch", "portable", 0, lambda problem: None, prepare))
