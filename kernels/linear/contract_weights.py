"""The further weight formats of linear: what each means, what rounding a kernel may add, cases.

The stage's tensors tell the format, its first input the activations. In all of them y = act(t), t float32.

weight        x         scheme     t[m, n]
bfloat16      float32   bfloat16   sum_k x[m, k] * weight[n, k] + bias[n]
int8          float32   w8a16      sum_k x[m, k] * weight[n, k] * weight_scale[n] + bias[n]
int4          float32   w4a16      sum_g group_scale[n, g] * sum_{k in g} x[m, k] * q[n, k] + bias[n]
int4          int8      w4a8       (sum_g group_scale[n, g] * D_g) * multiplier[n] + offset[n],
                                   D_g = sum_{k in g} x[m, k] * q[n, k]

int4 is two q a byte (uint8) with group_scale [N, groups], as in rtaccel.formats.int4; the attribute group_size says how
many k a group has. D_g is an exact int32. The groups are added in float32 in the order of g; a fused multiply-add may
or may not be used. With a static zero point z, offset[n] = bias[n] - multiplier[n] * z * sum_k weight[n, k], which
`lower` takes in float64, so a kernel multiplies x as it is. Dynamic rows: multiplier[n] * row_scale[m] for multiplier.

float32 activations: a kernel may round x to bfloat16, or to 16-bit fixed point with one scale per row (max |x| / 32639).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from rtaccel.core.errors import FormatError
from rtaccel.core.registry import Tolerance
from rtaccel.core.scheme import check_group_size
from rtaccel.core.stage import QParams, Stage, Value
from rtaccel.core.weight_format import WeightFormat
from rtaccel.formats import int4
from rtaccel.formats.int8 import inverse_scale, to_int8
from rtaccel.kernels._common import activations

EPS = torch.finfo(torch.float32).eps

MAX_STEP = 2.0**-8
"""bfloat16 keeps 8 bits: rounding loses at most 2^-8 of a number."""

FIXED_STEPS = 65_278
"""Half steps of the 16-bit form over max |x|: 2 * (127 * 256 + 127)."""


def storage_format(stage: Stage) -> str | None:
    """The scheme's name; None for the two forms of contract.py itself."""
    weight, x = WeightFormat.of(stage.tensors["weight"]), stage.inputs[0].dtype
    if weight is WeightFormat.BFLOAT16:
        return "bfloat16"
    if weight is WeightFormat.INT4:
        return "w4a8" if x == "int8" else "w4a16"
    return "w8a16" if weight is WeightFormat.INT8 and x == "float32" else None


def lower(stage: Stage, common: Mapping[str, Any]) -> Mapping[str, Any]:
    """The numbers that backends share. Of int4 weights: weight, group_scale, group_size, multiplier, offset."""
    kind, weight = storage_format(stage), stage.tensors["weight"]
    bias = stage.tensors.get("bias")
    offset = torch.zeros(weight.shape[0], dtype=torch.float32, device=weight.device) if bias is None else bias
    if kind == "bfloat16":
        return {**common, "weight": weight, "bias": offset}
    if kind == "w8a16":
        return {**common, "weight": weight, "multiplier": stage.tensors["weight_scale"], "offset": offset}
    x, y = stage.inputs[0], stage.outputs[0]
    group_size = check_group_size("linear", stage.attrs.get("group_size"))
    scales = stage.tensors["group_scale"]
    expected = (weight.shape[0], int4.row_bytes(x.width)), (weight.shape[0], int4.group_count(x.width, group_size))
    if (tuple(weight.shape), tuple(scales.shape)) != expected:
        raise FormatError(
            "linear",
            f"weight {list(weight.shape)} and group_scale {list(scales.shape)}",
            f"{list(expected[0])} and {list(expected[1])} for K = {x.width} in groups of {group_size}",
            "Quantize the weight with rtaccel.formats.int4.",
        )
    int4.require_scales("linear", "group_scale", scales)
    multiplier = torch.ones_like(offset)
    inv_scale = 1.0
    if x.quant is not None:
        multiplier = torch.full_like(offset, x.quant.scale)
        if x.quant.zero_point:
            sums = int4.dequantize(weight, scales, x.width, group_size).sum(1)
            offset = (offset.double() - multiplier.double() * x.quant.zero_point * sums).float()
    if y.quant is not None:
        inv_scale = inverse_scale(y.quant)
        if common["activation"] in activations.HOMOGENEOUS:
            factor = torch.full_like(offset, inv_scale)
            multiplier, offset, inv_scale = multiplier * factor, offset * factor, 1.0
    return {
        **common,
        "weight": weight,
        "group_scale": scales,
        "group_size": group_size,
        "multiplier": multiplier,
        "offset": offset,
        "dynamic": int(len(stage.inputs) > 1),
        "y_inv_scale": inv_scale,
        "y_zero_point": 0 if y.quant is None else y.quant.zero_point,
    }


def dense_weight(stage: Stage, low: Mapping[str, Any]) -> Tensor:
    """float64 [N, K] that x is multiplied by; the multiplier of a row of outputs comes after."""
    if WeightFormat.of(low["weight"]) is WeightFormat.INT4:
        return int4.dequantize(low["weight"], low["group_scale"], stage.inputs[0].width, low["group_size"])
    return low["weight"].double()


def _affine(low: Mapping[str, Any], row_scale: Tensor | None) -> tuple[Tensor, Tensor]:
    if "bias" in low:
        return torch.ones_like(low["bias"]), low["bias"]
    return (low["multiplier"] if row_scale is None else low["multiplier"] * row_scale), low["offset"]


def reference(stage: Stage, low: Mapping[str, Any], x: Tensor, row_scale: Tensor | None = None) -> tuple[Tensor]:
    multiplier, offset = _affine(low, row_scale)
    t = (x.double() @ dense_weight(stage, low).T) * multiplier.double() + offset.double()
    a = activations.apply(low["activation"], t, low["activation_parameter"]).float()
    if stage.outputs[0].dtype == "int8":
        return (to_int8(a, low["y_inv_scale"], low["y_zero_point"]),)
    return (a,)


def tolerance(stage: Stage, low: Mapping[str, Any], x: Tensor, row_scale: Tensor | None = None) -> Tolerance:
    """One step where float sums are rounded to int8. Else the roundings of x and of the float sums, in any order."""
    if stage.outputs[0].dtype == "int8":
        return Tolerance(steps=1)
    multiplier, offset = _affine(low, row_scale)
    weight, size = dense_weight(stage, low).abs(), x.double().abs()
    scale = multiplier.double().abs()
    magnitude = (size @ weight.T) * scale + offset.double().abs()
    terms = low["group_scale"].shape[1] if x.dtype == torch.int8 else x.shape[1]
    bound = EPS * (terms + 4) * magnitude
    if x.dtype == torch.float32:
        peak = size.amax(1, keepdim=True) if size.numel() else size
        bound += (torch.maximum(size * MAX_STEP, peak / FIXED_STEPS) @ weight.T) * scale
    slope = activations.slope(low["activation"], low["activation_parameter"])
    return Tolerance(atol=slope * bound + activations.error(low["activation"], magnitude))


def make_stage(
    k: int, n: int, kind: str, activation: str = "none", parameter: float = 0.0, out: str = "float32",
    group_size: int = 32, seed: int = 0,
) -> Stage:  # fmt: skip
    """A stage with random weights. kind: "bfloat16", "w8a16", "w4a16", "w4a8-static" or "w4a8-dynamic"."""
    g = torch.Generator().manual_seed(seed)
    attrs: dict[str, Any] = {"activation": activation, "activation_parameter": parameter}
    tensors = {"bias": torch.randn(n, generator=g)}
    x: tuple[Value, ...] = (Value("x", k),)
    if kind == "bfloat16":
        tensors["weight"] = (torch.randn(n, k, generator=g) / max(k, 1) ** 0.5).bfloat16()
    elif kind == "w8a16":
        tensors["weight"] = torch.randint(-127, 128, (n, k), generator=g, dtype=torch.int8)
        tensors["weight_scale"] = torch.rand(n, generator=g) * 0.01 / max(k, 1) ** 0.5 + 1e-6
    else:
        attrs["group_size"] = group_size
        q = torch.randint(-8, 8, (n, k), generator=g, dtype=torch.int8)
        scale = torch.randn(n, int4.group_count(k, group_size), generator=g) * 0.2 / max(k, 1) ** 0.5
        tensors["weight"] = int4.pack(q)
        tensors["group_scale"] = (scale + scale.sign() * 1e-3).bfloat16().float()
        if kind == "w4a8-dynamic":
            x = (Value("x", k, "int8"), Value("s", 1))
        elif kind == "w4a8-static":
            zero_point = int(torch.randint(-128, 128, (1,), generator=g))
            x = (Value("x", k, "int8", QParams(0.031, zero_point)),)
    y = Value("y", n, out, QParams(0.037, -128 if activation == "relu" else 11) if out == "int8" else None)
    return Stage("linear", "case", x, (y,), tensors, attrs)


KINDS = ("bfloat16", "w8a16", "w4a16", "w4a8-static", "w4a8-dynamic")


def stages() -> Iterator[tuple[int, Stage, str]]:
    """(rows, stage, label) of the conformance cases."""
    sizes = ((1, 1, 1), (1, 16, 16), (2, 5, 3), (3, 17, 31), (1, 64, 128), (4, 40, 128), (5, 129, 65), (7, 33, 130),
             (13, 100, 301), (35, 70, 96))  # fmt: skip
    for rows, n, k in sizes:
        for kind in KINDS:
            yield rows, make_stage(k, n, kind), kind
        for group_size in (16, 64):
            yield rows, make_stage(k, n, "w4a8-static", group_size=group_size), f"w4a8-g{group_size}"
        yield rows, make_stage(k, n, "w4a8-static", "relu", out="int8"), "w4a8-static"
        yield rows, make_stage(k, n, "w4a8-dynamic", "none", out="int8"), "w4a8-dynamic"
    for act, parameter in (("leaky_relu", 0.1), ("elu", 1.3), ("gelu", 0.0), ("silu", 0.0), ("tanh", 0.0)):
        for kind in KINDS:
            yield 3, make_stage(37, 45, kind, act, parameter), kind
        yield 3, make_stage(37, 45, "w4a8-static", act, parameter, out="int8"), "w4a8-static"
