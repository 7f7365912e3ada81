"""Expressions in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

from rtaccel.core.registry import Impl, Prepared, register_impl
from rtaccel.core.stage import Problem, Stage
from rtaccel.kernels.expression import contract


def prepare(stage: Stage, problem: Problem) -> Prepared:
    contract.lower(stage)  # what it refuses, it refuses here too

    def call(*inputs: Tensor) -> tuple[Tensor]:
        return (contract.computed(stage, inputs, torch.float32),)

    return call


for _operator in (contract.ROWS, contract.STRIDED):
    register_impl(Impl(_operator.name, "portable_torch", "portable", 0, lambda problem: None, prepare))
