"""Softmax in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

from rtaccel.core.registry import Impl, Prepared, register_impl
from rtaccel.core.stage import Problem, Stage
from rtaccel.kernels.softmax import contract


def prepare(stage: Stage, problem: Problem) -> Prepared:
    def call(x: Tensor) -> tuple[Tensor]:
        return contract.output(stage, torch.softmax(x, -1))

    return call


register_impl(Impl("softmax", "portable_torch", "portable", 0, lambda problem: None, prepare))
