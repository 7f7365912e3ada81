"""The numbers of an int8 linear layer (W8A8).

weight int8 [N, K] in -127..127, weight_scale float32 [N], bias float32 [N] or None;
static activations add input_scale float32 [] and input_zero_point int32 [], dynamic ones have neither.

Quantized as in `rtaccel.formats.int8`, computed as in the contracts of `quantize` and `linear`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rtaccel.core.errors import FormatError
from rtaccel.core.scheme import W8A8
from rtaccel.formats.int8 import quantize_weight
from rtaccel.nn.params.linear import LinearParams, Size

INPUT = {"input_scale": ((), torch.float32), "input_zero_point": ((), torch.int32)}


class Int8Weight(LinearParams):
    """What the schemes with int8 weights per output channel share."""

    @classmethod
    def storage_format(cls, size: Size) -> Mapping[str, tuple[tuple[int, ...], torch.dtype]]:
        return {
            "weight": ((size.n, size.k), torch.int8),
            "weight_scale": ((size.n,), torch.float32),
            "bias": ((size.n,), torch.float32),
            **(INPUT if cls.int8_input() else {}),
        }

    @classmethod
    def quantized(cls, op: str, weight: Tensor, size: Size) -> dict[str, Any]:
        return dict(zip(("weight", "weight_scale"), quantize_weight(weight, op)))

    @classmethod
    def check_values(cls, op: str, name: str, tensor: Tensor) -> None:
        if name == "weight" and (tensor == -128).any():
            step = "Take the state dict of a QuantLinear of this size and scheme."
            raise FormatError(op, "weight holding -128", "int8 weights in -127..127", step)


@dataclass(frozen=True, eq=False)
class LinearW8A8(Int8Weight):
    SCHEME = W8A8

    weight: Tensor
    weight_scale: Tensor
    bias: Tensor | None = None
    input_scale: Tensor | None = None
    input_zero_point: Tensor | None = None
