"""The numbers of a linear layer with int4 weights in groups along K (W4A8, W4A16), as `rtaccel.formats.int4` has them.

weight uint8 [N, (K + 1) // 2], two numbers a byte; group_scale float32 [N, groups]; bias float32 [N] or None. W4A8 with
static activations adds input_scale float32 [] and input_zero_point int32 [].
in_features (K) and group_size are not in the tensors: a layer knows them, and the operator takes them as arguments.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rtaccel.core.scheme import W4A8, W4A16, Scheme, check_group_size
from rtaccel.formats import int4
from rtaccel.nn.params.linear import LinearParams, Size
from rtaccel.nn.params.linear_w8a8 import INPUT


class Int4Weight(LinearParams):
    OPTIONS = ("in_features", "group_size")

    in_features: int
    group_size: int

    @classmethod
    def storage_format(cls, size: Size) -> Mapping[str, tuple[tuple[int, ...], torch.dtype]]:
        return {
            "weight": ((size.n, int4.row_bytes(size.k)), int4.DTYPE),
            "group_scale": ((size.n, int4.group_count(size.k, size.group_size)), torch.float32),
            "bias": ((size.n,), torch.float32),
            **(INPUT if cls.int8_input() else {}),
        }

    @classmethod
    def size_of(cls, n: int, k: int, scheme: Scheme) -> Size:
        assert isinstance(scheme, (W4A8, W4A16))
        return Size(n, k, scheme.group_size)

    @property
    def size(self) -> Size:
        return Size(self.weight.shape[0], self.in_features, self.group_size)

    @classmethod
    def quantized(cls, op: str, weight: Tensor, size: Size) -> dict[str, Any]:
        packed, scale = int4.quantize_weight(weight, size.group_size, op)
        return {"weight": packed, "group_scale": scale, "in_features": size.k, "group_size": size.group_size}

    def validate(self, op: str) -> None:
        check_group_size(op, self.group_size)
        super().validate(op)

    @classmethod
    def check_values(cls, op: str, name: str, tensor: Tensor) -> None:
        if name == "group_scale":
            int4.require_scales(op, name, tensor)

    def attrs(self) -> dict[str, Any]:
        return {"group_size": self.group_size}


@dataclass(frozen=True, eq=False)
class LinearW4A8(Int4Weight):
    SCHEME = W4A8

    weight: Tensor
    group_scale: Tensor
    bias: Tensor | None = None
    input_scale: Tensor | None = None
    input_zero_point: Tensor | None = None
    in_features: int = 0
    group_size: int = 32


@dataclass(frozen=True, eq=False)
class LinearW4A16(Int4Weight):
    SCHEME = W4A16

    weight: Tensor
    group_scale: Tensor
    bias: Tensor | None = None
    in_features: int = 0
    group_size: int = 32
