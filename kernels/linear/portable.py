"""Linear in plain torch: always there, exact, and the yardstick the other backends are explained against."""

from __future__ import annotations

import torch
from torch import Tensor

from rtaccel.core.registry import Impl, Prepared, register_impl
from rtaccel.core.stage import Problem, Stage
from rtaccel.core.weight_format import WeightFormat
from rtaccel.formats.int8 import to_int8
from rtaccel.kernels._common import activations
from rtaccel.kernels.linear import contract, contract_weights, portable_weights


def supports(problem: Problem) -> str | None:
    if problem.weight_format in (WeightFormat.FLOAT32, WeightFormat.INT8, WeightFormat.BFLOAT16, WeightFormat.INT4):
        return None
    return f"has no form for {problem.weight_format} weights"


def prepare(stage: Stage, problem: Problem) -> Prepared:
    low = contract.lower(stage)
    act, parameter = low["activation"], low["activation_parameter"]
    if low["weight"].dtype == torch.float32:

        def call_float(x: Tensor) -> tuple[Tensor]:
            return (activations.apply(act, torch.nn.functional.linear(x, low["weight"], low["bias"]), parameter),)

        return call_float
    if contract_weights.storage_format(stage) is not None:
        return portable_weights.prepare(stage, low)
    weight = low["weight"].double().T.contiguous()  # converted once: exact sums through the float64 matmul
    int8_out = stage.outputs[0].dtype == "int8"

    def call(x: Tensor, row_scale: Tensor | None = None) -> tuple[Tensor]:
        acc = (x.double() - low["x_zero_point"]) @ weight
        multiplier = low["multiplier"] if row_scale is None else low["multiplier"] * row_scale
        a = activations.apply(act, acc.float() * multiplier + low["offset"], parameter)
        return (to_int8(a, low["y_inv_scale"], low["y_zero_point"]) if int8_out else a,)

    return call


register_impl(Impl("linear", "portable_torch", "portable", 0, supports, prepare))
