"""Conv: y = act(conv(x, weight) + bias + other), for images and sequences, channels last.

Axes: x [M, in steps, C], weight [N, C / groups, kh, kw], bias [N], other and y [M, out steps, N]. A step is a position
of the image, row-major; a sequence is an image of height 1. Geometry (attrs in_size, kernel, stride, padding, dilation,
out_size, in_steps, out_steps, out_rows, tap_rows): kernels/_common/geometry.py. x may also be flat: one row [M, H * W * C]
with the channels of a position side by side. Padding is real zero. attrs groups (1), activation, activation_parameter.
`other` is an optional last input, float32: a residual, added before the activation.

Planes (attrs x_planes, y_planes = 1): the elements of x are [C, H, W], those of y [N, *out_size], row by row of the value,
however many steps it has, and those of `other` are as those of y. All positions then (planes.py).

float32: products and sums in float32, in any order, or by Winograd's convolution (winograd/) where it is faster; attr
winograd = 0 rules that out, 2 or 4 asks for it. int8: the same integers either way, so kernels may choose.

int8 (W8A8): weight int8 in -127..127 with weight_scale [N], exact int32 sums:

    acc[p, n] = sum over taps and channels of (q - zero_point) * weight[n]
    t[p, n]   = float32(acc) * multiplier[n] + offset[n]               two roundings, no fused multiply-add
    a[p, n]   = act(t + other)                                          one more rounding where there is an other
    y[p, n]   = a                                                       float32 output
              = clamp(rint(a * y_inv_scale) + y_zero_point, -128, 127)   int8 output

For none, relu and leaky_relu without `other` the output scale is folded into multiplier and offset, and y_inv_scale
is 1. The numbers q come from one of

    x int8 with its QParams                                   static
    x float32, attrs x_scale and x_zero_point               static: the stage quantizes x itself, as `quantize` does
    x float32 without them                                  dynamic: q = rint(x * (127 / peak)), zero point 0, with
                                                            peak the largest |x| of the whole sample;
                                                            the multiplier is float32(multiplier[n] * (peak / 127))

A sample of float32 x that holds a NaN or an infinity: static q is 0 throughout and the plan marks the sample; dynamic
gives NaN in a float32 y, and marks the sample where y is int8. Other samples are not touched.

Marks (attrs gives_mark, takes_mark = 1), which plans on a GPU make: a last output mark [1] is 1, or NaN where the sample of x
holds a NaN or an infinity. A last input mark [1] is a factor of the multiplier: y is as it was, or NaN all over.

Streaming (attr stream = 1): inputs (x [1, C], ring [R, C]), outputs (y [1, N], ring), kernel (1, k), R = (k - 1) *
dilation + 1, static or float32. The column of call t lies in row t mod R of the ring, which is int8 (with the QParams of
x) where the weights are, and starts as zeros in real numbers. `other` comes after the ring. y is what the last output
of a causal convolution over all columns so far would be. The reference is the call with t = 0. With attr ticks = 1 each
sample says its t, int64 [1] behind the ring, from 0 on: so it is in a graph, where no number changes from call to call.
A column with a NaN or an infinity is q = 0 in an int8 ring.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import prod
from typing import Any

import torch
from torch import Tensor

from rtaccel.core.registry import Cost, Operator, Tolerance, register_operator
from rtaccel.core.stage import Problem, Stage
from rtaccel.core.stage_traits import Int8Flow, static_inside
from rtaccel.core.traits import Persistent
from rtaccel.core.weight_format import WeightFormat
from rtaccel.formats.int8 import inverse_scale, to_int8
from rtaccel.kernels._common import activations
from rtaccel.kernels._common.geometry import Geometry, as_rows
from rtaccel.kernels.conv import lowering, planes, winograd
from rtaccel.kernels.conv.cases import cases
from rtaccel.kernels.conv.conversion import convert
from rtaccel.kernels.conv.fusion import ConvFusion, give_mark, take_mark
from rtaccel.kernels.conv.lowering import channels, has_other, has_ticks, input_quant, is_stream, lower
from rtaccel.kernels.conv.streaming import STREAMING
from rtaccel.kernels.quantize import contract as quantize


def quantized(stage: Stage, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """q as int8 [M, steps, C], and the scale of each sample [M, 1, 1] where it is dynamic."""
    if x.dtype == torch.int8:
        return as_rows(x, channels(stage)), None
    quant = input_quant(stage)
    scale: Tensor | None = None
    if quant is None:
        q, scale = quantize.dynamic(x.flatten(1))
        scale = scale[:, :, None]
    else:
        q = quantize.static(x.flatten(1), inverse_scale(quant), quant.zero_point)
    return as_rows(q, channels(stage)), scale


def sums(stage: Stage, rows: Tensor, weight: Tensor, index: Tensor) -> Tensor:
    """float64 [M, out steps, N]: sum over taps and channels of rows[index] * weight; exact for whole numbers."""
    groups, (n, per_group) = int(stage.attrs.get("groups", 1)), weight.shape[:2]
    zero = rows.new_zeros(rows.shape[0], 1, rows.shape[2])
    gathered = torch.cat([rows, zero], 1)[:, index]  # -1 is the last row: padding
    gathered = gathered.reshape(*gathered.shape[:3], groups, per_group).double()
    w = weight.double().reshape(groups, n // groups, per_group, -1)
    return torch.einsum("mptgc,gnct->mpgn", gathered, w).flatten(2)


def _window(stage: Stage, rows: Tensor, given: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """What the taps read, where, and the new ring: in a stream the ring with x in row 0, the call being the first."""
    if not is_stream(stage):
        return rows, Geometry.of(stage).index("conv"), ()
    k, dilation = stage.attrs["kernel"][1], stage.attrs.get("dilation", (1, 1))[1]
    tick = given[1].reshape(-1) if has_ticks(stage) else torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
    ring = put_newest(as_rows(given[0], rows.shape[2]), rows, tick)
    in_order = by_age(ring, tick)
    index = torch.tensor([[ring.shape[1] - 1 - (k - 1 - j) * dilation for j in range(k)]])
    return in_order, index, (ring.reshape(given[0].shape),)


def put_newest(ring: Tensor, rows: Tensor, tick: Tensor) -> Tensor:
    """A copy of a ring [M, R, C] with rows [M, 1, C] as the columns of calls tick [M]."""
    made = ring.clone()
    made[torch.arange(len(ring), device=ring.device), tick % ring.shape[1]] = rows[:, 0].to(ring.dtype)
    return made


def by_age(ring: Tensor, tick: Tensor) -> Tensor:
    """The columns of a ring [M, R, C] after calls tick [M], the oldest first."""
    samples, rows = torch.arange(len(ring), device=ring.device), torch.arange(ring.shape[1], device=ring.device)
    return ring[samples[:, None], (tick[:, None] + 1 + rows) % ring.shape[1]]


def epilogue(stage: Stage, low: Mapping[str, Any], t: Tensor, other: Tensor | None) -> Tensor:
    """Residual, activation, output type; t [M, steps, N] becomes [M, *shape of y]."""
    if other is not None:
        t = t + other.reshape(t.shape)
    a = activations.apply(low["activation"], t, low["activation_parameter"])
    if stage.outputs[0].dtype == "int8":
        a = to_int8(a, low["y_inv_scale"], low["y_zero_point"])
    return a.reshape(t.shape[0], *stage.outputs[0].shape)


def reference(stage: Stage, x: Tensor, *given: Tensor) -> tuple[Tensor, ...]:
    if planes.used(stage):
        return planes.around(stage, reference, x, *given)
    if lowering.takes_mark(stage) or lowering.gives_mark(stage):
        return _marked(stage, x, *given)
    low = lower(stage)
    other = given[-1] if has_other(stage) else None
    if low["weight"].dtype == torch.float32:
        rows, index, ring = _window(stage, as_rows(x, channels(stage)), given)
        t = sums(stage, rows, low["weight"], index) + low["bias"].double()
        y = epilogue(stage, low, t, None if other is None else other.double())
        return (y.float(), *ring)
    q, scale = quantized(stage, x)
    rows, index, ring = _window(stage, q, given)
    acc = sums(stage, rows.double() - low["x_zero_point"], low["weight"], index)
    return (epilogue(stage, low, _rescaled(low, acc, scale), other), *ring)


def _marked(stage: Stage, x: Tensor, *given: Tensor) -> tuple[Tensor, ...]:
    (y,) = reference(unmarked(stage), x, *(given[:-1] if lowering.takes_mark(stage) else given))
    if lowering.takes_mark(stage):
        return (torch.where(given[-1].isnan().view(-1, *(1 for _ in y.shape[1:])), torch.nan, y),)
    finite = torch.isfinite(x).flatten(1).all(1, keepdim=True)
    return y, torch.where(finite, 1.0, torch.nan)


def unmarked(stage: Stage) -> Stage:
    """The stage without a mark."""
    attrs = {k: v for k, v in stage.attrs.items() if k not in ("takes_mark", "gives_mark")}
    inputs, outputs = stage.inputs, stage.outputs
    return replace(
        stage,
        inputs=inputs[:-1] if lowering.takes_mark(stage) else inputs,
        outputs=outputs[:-1] if lowering.gives_mark(stage) else outputs,
        attrs=attrs,
    )


def _rescaled(low: Mapping[str, Any], acc: Tensor, scale: Tensor | None) -> Tensor:
    multiplier = low["multiplier"] if scale is None else low["multiplier"] * scale
    return acc.to(torch.int32).float() * multiplier + low["offset"]


def tolerance(stage: Stage, x: Tensor, *given: Tensor) -> Tolerance:
    """int8: exact but for a transcendental activation. float32: the bound of a sum of K products in any order."""
    if planes.used(stage):
        return planes.tolerance(stage, tolerance, x, *given)
    act = stage.attrs.get("activation", "none")
    low = lower(stage)
    other = as_rows(given[-1], stage.outputs[0].width) if has_other(stage) else None
    if low["weight"].dtype == torch.float32:
        rows, index, _ = _window(stage, as_rows(x, channels(stage)), given)
        magnitude = sums(stage, rows.abs(), low["weight"].abs(), index) + low["bias"].abs().double()
        if other is not None:
            magnitude = magnitude + other.abs()
        eps = torch.finfo(torch.float32).eps
        slope = activations.slope(act, low["activation_parameter"])
        terms = low["weight"][0].numel() + 3
        bound = terms * magnitude
        if low["winograd"]:  # kernels may take it or not; a tile with an input that is not finite is not computed so
            by_tiles = winograd.magnitude(stage, low["winograd"], rows, low["weight"]) + low["bias"].abs().double()
            if other is not None:
                by_tiles = by_tiles + other.abs()
            by_tiles = winograd.terms(low["weight"].shape[1]) * by_tiles
            bound = torch.where(by_tiles.isfinite(), torch.maximum(bound, by_tiles), bound)
        bound = slope * eps * bound + activations.error(act, magnitude)
        # Rings are copies, and pass within this, too.
        return Tolerance(
            atol=float(bound.max()) if is_stream(stage) else bound.reshape(x.shape[0], *stage.outputs[0].shape)
        )
    if stage.outputs[0].dtype == "int8":
        return Tolerance(steps=0 if act in activations.HOMOGENEOUS else 1)
    if act in activations.HOMOGENEOUS:
        return Tolerance()
    q, scale = quantized(stage, x)
    rows, index, _ = _window(stage, q, given)
    t = _rescaled(low, sums(stage, rows.double() - low["x_zero_point"], low["weight"], index), scale)
    t = t if other is None else t + other
    bound = activations.error(act, t)
    return Tolerance(
        atol=float(bound.max()) if is_stream(stage) else bound.reshape(x.shape[0], *stage.outputs[0].shape)
    )


def cost(problem: Problem) -> Cost:
    """Each input and output once, the weights once, two operations for each product that is not padding for certain."""
    size = {"float32": 4, "int8": 1, "int64": 8}
    kernel, groups = problem.attrs["kernel"], int(problem.attrs.get("groups", 1))
    c, positions = problem.in_widths[0], problem.out_steps[0]
    if problem.attrs.get("x_planes"):
        c = c * problem.in_steps[0] // prod(problem.attrs["in_size"])
    elif problem.in_steps[0] == 1 and "in_size" in problem.attrs and problem.attrs.get("in_steps") is None:
        c //= problem.attrs["in_size"][0] * problem.attrs["in_size"][1]
    k, n = kernel[0] * kernel[1] * c // groups, problem.out_widths[0]
    if problem.attrs.get("y_planes"):
        n, positions = n * positions // prod(problem.attrs["out_size"]), prod(problem.attrs["out_size"])
    moved = (problem.weight_format or WeightFormat.FLOAT32).bytes_of(n * k) + 8 * n
    in_steps, out_steps = list(problem.in_steps), list(problem.out_steps)
    if problem.attrs.get("ticks"):  # of the ring what taps read, and the newest column
        in_steps[1], out_steps[1] = kernel[1] - 1, 1
    for width, steps, dtype in (
        *zip(problem.in_widths, in_steps, problem.in_dtypes),
        *zip(problem.out_widths, out_steps, problem.out_dtypes),
    ):
        moved += problem.rows * width * steps * size[dtype]
    return Cost(bytes=moved, flops=2 * problem.rows * positions * n * k)


def packed_bytes(stage: Stage) -> int:
    """No kernel packs more: taps and channels rounded up to groups of 4, outputs to vectors, in each group."""
    if planes.used(stage):
        return packed_bytes(planes.by_position(stage)) + planes.packed_bytes(stage)
    weight = stage.tensors["weight"]
    groups = int(stage.attrs.get("groups", 1))
    per_group = (weight.shape[0] // groups + 63) // 64 * 64
    taps = (weight.shape[2] + 3) // 4 * 4 * weight.shape[3] + (weight.shape[3] + 3) // 4 * 4 * weight.shape[2]
    channels = (weight.shape[1] + 3) // 4 * 4
    columns = (weight.shape[0] + 63) // 64 * 64
    general = groups * per_group * taps * channels * weight.element_size()
    if tile := winograd.tile(stage):
        general += 4 * columns * weight.shape[1] * ((tile + 2) ** 2 + 9)
    if weight.dtype == torch.int8 and winograd.possible(stage.attrs):
        general += 32 * columns * (weight.shape[1] + 1)
    if weight.dtype == torch.int8 and not stage.attrs.get("stream") and winograd.line(stage.attrs) is not None:
        general += 8 * columns * (weight.shape[1] + 1)
    if weight.dtype == torch.int8 and groups == 1:  # tiles of 64 bytes
        general += columns * weight.shape[2] * weight.shape[3] * ((weight.shape[1] + 63) // 64 * 64)
    steps = sum(v.steps for v in (*stage.inputs, *stage.outputs))
    size = stage.attrs.get("in_size", (1, 1))
    tables = 16 * (steps + size[0] * size[1]) + 4 * (stage.outputs[0].steps + 4) * taps
    return general + columns * (4 * taps + 64) + 16 * groups * per_group + tables + 4096


OPERATOR = register_operator(
    Operator(
        name="conv",
        axes={
            "x": ("M", "in steps", "C"), "weight": ("N", "C / groups", "kh", "kw"), "weight_scale": ("N",),
            "bias": ("N",), "other": ("M", "out steps", "N"), "y": ("M", "out steps", "N"),
        },
        reference=reference,
        cases=cases,
        tolerance=tolerance,
        cost=cost,
        lower=lower,
        by_row=False,
        packed_bytes=packed_bytes,
        exact={"winograd": 0},
        weights=convert.WEIGHTS,
        int8=Int8Flow(marks=static_inside, give_mark=give_mark, take_mark=take_mark),
        folding=convert.FOLDING,
        fusion=ConvFusion(),
        rows_needed=convert.ROWS,
        streaming=STREAMING,
        sparse=convert.ConvSparse(),
        planes=planes.ConvPlanes(),
        persistent=Persistent.STREAM,
    )
)  # fmt: skip
