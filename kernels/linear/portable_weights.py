"""bfloat16, W8A16, W4A16 and W4A8 in plain torch: the weight is spread out once, then it is one float product."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from rtaccel.core.registry import Prepared
from rtaccel.core.stage import Stage
from rtaccel.formats.int8 import to_int8
from rtaccel.kernels._common import activations
from rtaccel.kernels.linear import contract_weights


def prepare(stage: Stage, low: Mapping[str, Any]) -> Prepared:
    """x [M, K] and, with dynamic rows, row_scale [M, 1] -> y [M, N]. int8 x in float64, where the sums are exact."""
    act, parameter = low["activation"], low["activation_parameter"]
    int8_out = stage.outputs[0].dtype == "int8"
    dtype = torch.float64 if stage.inputs[0].dtype == "int8" else torch.float32
    weight = contract_weights.dense_weight(stage, low).to(dtype).T.contiguous()
    offset = low["bias"] if "bias" in low else low["offset"]

    def call(x: Tensor, row_scale: Tensor | None = None) -> tuple[Tensor]:
        t = (x.to(dtype) @ weight).float()
        if "multiplier" in low:
            t = t * (low["multiplier"] if row_scale is None else low["multiplier"] * row_scale)
        a = activations.apply(act, t + offset, parameter)
        return (to_int8(a, low["y_inv_scale"], low["y_zero_point"]) if int8_out else a,)

    return call
