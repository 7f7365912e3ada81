"""Stored weights and int8 layers, decoded and computed a second time: nothing here is shared with kernels or formats."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from rtaccel.core.stage import Stage

ONE = np.float32(1)


def int4_values(packed: Tensor, k: int) -> Tensor:
    """int64 [N, k]: of each byte first the low four bits, then the high ones, each less 8."""
    rows = [[half - 8 for byte in row for half in (byte % 16, byte // 16)][:k] for row in packed.tolist()]
    return torch.tensor(rows, dtype=torch.int64).reshape(-1, k)


def whole_numbers(stage: Stage) -> Tensor:
    """float64 [N, K]: the weight as it is stored, without its scales."""
    weight, k = stage.tensors["weight"], stage.inputs[0].width
    return int4_values(weight, k).double() if weight.dtype == torch.uint8 else weight.double()


def real_weight(stage: Stage) -> Tensor:
    """float64 [N, K]: the numbers that a stage of `linear` multiplies by."""
    values, tensors = whole_numbers(stage), stage.tensors
    if "group_scale" in tensors:
        group = [i // int(stage.attrs["group_size"]) for i in range(values.shape[1])]
        return values * tensors["group_scale"].double()[:, group]
    return values * tensors["weight_scale"].double()[:, None] if "weight_scale" in tensors else values


def real_input(stage: Stage, x: Tensor, row_scale: Tensor | None = None) -> Tensor:
    """float64 [M, K]."""
    quant = stage.inputs[0].quant
    if quant is not None:
        return (x.double() - quant.zero_point) * float(np.float32(quant.scale))
    return x.double() if row_scale is None else x.double() * row_scale.double()


def real_layer(stage: Stage, x: Tensor, row_scale: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """x W^T + bias in float64, and the sum of the magnitudes of its terms."""
    real, weight = real_input(stage, x, row_scale), real_weight(stage)
    bias = stage.tensors.get("bias", torch.zeros(weight.shape[0])).double()
    return real @ weight.T + bias, real.abs() @ weight.abs().T + bias.abs()


def int8_layer(stage: Stage, weight: Tensor, x: Tensor, row_scale: Tensor | None = None) -> Tensor:
    """The layer with int8 weight [N, K], to the bit: exact sums, then float32 in the order of the contract of `linear`.
    For the activations none and relu, which take the scale of an int8 output into the multiplier."""
    (source, *_), y = stage.inputs, stage.outputs[0].quant
    acc = (x.long() - (source.quant.zero_point if source.quant else 0)) @ weight.long().T
    multiplier, offset = stage.tensors["weight_scale"].numpy(), stage.tensors["bias"].numpy()
    if source.quant is not None:
        multiplier = multiplier * np.float32(source.quant.scale)
    if y is not None:
        inverse = ONE / np.float32(y.scale)
        multiplier, offset = multiplier * inverse, offset * inverse
    if row_scale is not None:
        multiplier = multiplier * row_scale.numpy()
    t = acc.numpy().astype(np.float32) * multiplier + offset
    assert t.dtype == np.float32
    if stage.attrs["activation"] == "relu":
        t = np.maximum(t, np.float32(0))
    if y is None:
        return torch.from_numpy(t)
    steps = np.rint(t.astype(np.float64)) + y.zero_point
    return torch.from_numpy(np.clip(steps, -128, 127).astype(np.int8))
