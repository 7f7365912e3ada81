"""The numbers of a linear layer whose activations stay float32: bfloat16 weights, or int8 ones (W8A16).

bfloat16: weight bfloat16 [N, K], bias float32 [N] or None. W8A16: weight int8 [N, K], weight_scale float32 [N], bias.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rtaccel.core.scheme import W8A16, BFloat16
from rtaccel.formats import bf16
from rtaccel.nn.params.linear import LinearParams, Size
from rtaccel.nn.params.linear_w8a8 import Int8Weight


@dataclass(frozen=True, eq=False)
class LinearW8A16(Int8Weight):
    SCHEME = W8A16

    weight: Tensor
    weight_scale: Tensor
    bias: Tensor | None = None


@dataclass(frozen=True, eq=False)
class LinearBFloat16(LinearParams):
    SCHEME = BFloat16

    weight: Tensor
    bias: Tensor | None = None

    @classmethod
    def storage_format(cls, size: Size) -> Mapping[str, tuple[tuple[int, ...], torch.dtype]]:
        return {"weight": ((size.n, size.k), torch.bfloat16), "bias": ((size.n,), torch.float32)}

    @classmethod
    def quantized(cls, op: str, weight: Tensor, size: Size) -> dict[str, Any]:
        return {"weight": bf16.quantize_weight(weight, op)}
