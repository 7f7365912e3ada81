"""Quantize in plain torch."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from rtaccel.core.registry import Impl, Prepared, register_impl
from rtaccel.core.stage import Problem, Stage
from rtaccel.kernels.quantize import contract


def prepare(stage: Stage, problem: Problem) -> Prepared:
    low = contract.lower(stage)
    if low["dynamic"]:
        return contract.dynamic
    quantize = partial(contract.static, inv_scale=low["inv_scale"], zero_point=low["zero_point"])

    def call(x: Tensor) -> tuple[Tensor]:
        return (quantize(x),)

    return call


register_impl(Impl("quantize", "portable_torch", "portable", 0, lambda problem: None, prepare))
