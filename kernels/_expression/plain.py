"""Expressions in plain torch, for both operators."""

from __future__ import annotations

import torch
from torch import Tensor

from rtaccel.core.registry import Impl, Prepared
from rtaccel.core.stage import Problem, Stage
from rtaccel.kernels._expression import operator


def prepare(stage: Stage, problem: Problem) -> Prepared:
    operator.lower(stage)  # what it refuses, it refuses here too

    def call(*inputs: Tensor) -> tuple[Tensor]:
        return (operator.computed(stage, inputs, torch.float32),)

    return call


def implementation(name: str) -> Impl:
    return Impl(name, "portable_torch", "portable", 0, lambda problem: None, prepare)
