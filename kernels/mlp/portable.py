"""MLP in plain torch: its layers, one after another."""

from __future__ import annotations

import torch
from torch import Tensor

from rtaccel.core.registry import Impl, Prepared, register_impl
from rtaccel.core.stage import Problem, Stage
from rtaccel.kernels.linear import portable as linear
from rtaccel.kernels.mlp import contract
from rtaccel.kernels.quantize import portable as quantize


def _layer(layer: Stage, problem: Problem) -> Prepared:
    if not contract.int4_layer(layer):
        return linear.prepare(layer, problem)
    call = contract.int4_call(layer)
    return lambda x: (call(x),)


def prepare(stage: Stage, problem: Problem) -> Prepared:
    source, layers = contract.split(stage)
    steps = [quantize.prepare(source, problem), *(_layer(layer, problem) for layer in layers)]

    def call(x: Tensor) -> tuple[Tensor]:
        t = x
        for step in steps:
            (t,) = step(t)
        return (torch.where(torch.isfinite(x).all(-1, keepdim=True), t, torch.full_like(t, float("nan"))),)

    return call


register_impl(Impl("mlp", "portable_torch", "portable", 0, lambda problem: None, prepare))
