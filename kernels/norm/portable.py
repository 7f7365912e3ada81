"""Norm in plain torch."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from rtaccel.core.registry import Impl, Prepared, register_impl
from rtaccel.core.stage import Problem, Stage
from rtaccel.kernels._common import activations
from rtaccel.kernels.norm import contract


def prepare(stage: Stage, problem: Problem) -> Prepared:
    low = contract.lower(stage)
    shape, weight, bias, eps = (stage.inputs[0].width,), low["weight"], low["bias"], low["eps"]

    weight, bias = weight.to(problem.device), bias.to(problem.device)

    def call(x: Tensor, other: Tensor | None = None) -> tuple[Tensor, ...]:
        t = x if other is None else x + other
        y = (
            F.layer_norm(t, shape, weight, bias, eps)
            if low["kind"] == "layer"
            else F.rms_norm(t, shape, weight, eps) + bias
        )
        return contract.arrange(stage, low, t, activations.apply(low["activation"], y, low["activation_parameter"]))

    return call


register_impl(Impl("norm", "portable_torch", "portable", 0, lambda problem: None, prepare))
