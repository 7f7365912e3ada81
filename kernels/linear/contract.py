"""Linear: y = act(x W^T + bias), in float32 and with int8 weights and activations.

Axes: x [M, K], weight [N, K], bias [N], y [M, N].

float32: products and sums in float32, in any order.

int8 (W8A8): weight int8 in -127..127 with `weight_scale [N]`; x int8 with a scale and zero point per
tensor (static), or a scale per row in a second input `row_scale [M, 1]` (dynamic, zero point 0):

    acc[m, n]  = sum_k (x[m, k] - zero_point) * weight[n, k]      int32, exact
    t[m, n]    = float32(acc) * multiplier[n] + offset[n]         two roundings, no fused multiply-add
    y[m, n]    = act(t)                                           float32 output
               = clamp(rint(act(t) * y_inv_scale) + y_zero_point, -128, 127)    int8 output

`lower` computes multiplier, offset and y_inv_scale once, in torch, so that every backend multiplies by
the same bits. For none, relu and leaky_relu the output scale is folded in and y_inv_scale is 1.
With dynamic rows the multiplier of row m is float32(multiplier[n] * row_scale[m]).

bfloat16 and int4 weights, and int8 weights with float32 activations: contract_weights.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from rtaccel.core.errors import UnsupportedProblem
from rtaccel.core.registry import Case, Cost, Operator, Tolerance, register_operator
from rtaccel.core.row_traits import ROW_BY_ROW, STREAMS_ROWS
from rtaccel.core.stage import Problem, QParams, Stage, Value
from rtaccel.core.stage_traits import Int8Flow
from rtaccel.core.weight_format import WeightFormat
from rtaccel.formats.int8 import inverse_scale, to_int8
from rtaccel.kernels._common import activations
from rtaccel.kernels.fused_linear.fusion import LinearFusion
from rtaccel.kernels.linear import contract_weights, convert

MAX_K = 65_536
"""|acc| <= K * 255 * 127 stays below 2^31 up to K = 66,311; the bound is the next lower power of two."""


def lower(stage: Stage) -> Mapping[str, Any]:
    """The shared numbers: for float32 weights none; for int8 multiplier, offset, compensation, scales."""
    weight = stage.tensors["weight"]
    n, k = weight.shape[0], stage.inputs[0].width
    bias = stage.tensors.get("bias")
    common: dict[str, Any] = {
        "activation": stage.attrs.get("activation", "none"),
        "activation_parameter": float(stage.attrs.get("activation_parameter", 0.0)),
    }
    if contract_weights.storage_format(stage) is not None:
        return contract_weights.lower(stage, common)
    if weight.dtype == torch.float32:
        return {**common, "weight": weight, "bias": weight.new_zeros(n) if bias is None else bias}
    if k > MAX_K:
        raise UnsupportedProblem(
            "linear",
            f"K = {k}",
            f"K <= {MAX_K}, where int32 sums cannot overflow",
            "Split the layer or keep it float32.",
        )
    x, y = stage.inputs[0], stage.outputs[0]
    dynamic = x.quant is None
    multiplier = stage.tensors["weight_scale"].clone()
    offset = torch.zeros_like(multiplier) if bias is None else bias.clone()
    zero_point = 0
    if not dynamic:
        multiplier *= _float32(x.quant.scale)
        zero_point = x.quant.zero_point
    inv_scale = _float32(1.0)
    if y.quant is not None:
        inv_scale = _float32(inverse_scale(y.quant))
        if common["activation"] in activations.HOMOGENEOUS:
            multiplier, offset, inv_scale = multiplier * inv_scale, offset * inv_scale, _float32(1.0)
    return {
        **common,
        "weight": weight,
        "multiplier": multiplier,
        "offset": offset,
        "x_zero_point": zero_point,
        "dynamic": int(dynamic),
        "y_inv_scale": float(inv_scale),
        "y_zero_point": 0 if y.quant is None else y.quant.zero_point,
    }


def _float32(value: float) -> Tensor:
    """On the CPU and in float32 whatever torch's defaults are: it then multiplies tensors on any device."""
    return torch.tensor(value, dtype=torch.float32, device="cpu")


def accumulate(x: Tensor, weight: Tensor, zero_point: int) -> Tensor:
    """Exact int32 sums by way of float64, whose 53 bits hold every partial sum for K <= MAX_K."""
    return ((x.double() - zero_point) @ weight.double().T).to(torch.int32)


def rounds_last(stage: Stage) -> bool:
    """Not where the scale of y is in the multiplier, as with activations that let it through."""
    return len(stage.inputs) == 1 and stage.attrs.get("activation", "none") not in activations.HOMOGENEOUS


def reference(stage: Stage, x: Tensor, row_scale: Tensor | None = None) -> tuple[Tensor]:
    low = lower(stage)
    if contract_weights.storage_format(stage) is not None:
        return contract_weights.reference(stage, low, x, row_scale)
    act, parameter = low["activation"], low["activation_parameter"]
    if low["weight"].dtype == torch.float32:
        t = x.double() @ low["weight"].double().T + low["bias"].double()
        return (activations.apply(act, t, parameter).float(),)
    multiplier = low["multiplier"] if row_scale is None else low["multiplier"] * row_scale
    t = accumulate(x, low["weight"], low["x_zero_point"]).float() * multiplier
    a = activations.apply(act, t + low["offset"], parameter)
    if stage.outputs[0].dtype == "int8":
        return (to_int8(a, low["y_inv_scale"], low["y_zero_point"]),)
    return (a,)


def tolerance(stage: Stage, x: Tensor, row_scale: Tensor | None = None) -> Tolerance:
    """int8: exact but for a transcendental activation. float32: the bound of a sum of K products in any order."""
    if contract_weights.storage_format(stage) is not None:
        return contract_weights.tolerance(stage, lower(stage), x, row_scale)
    act = stage.attrs.get("activation", "none")
    weight = stage.tensors["weight"]
    if weight.dtype == torch.float32:
        bias = stage.tensors.get("bias", torch.zeros(weight.shape[0]))
        magnitude = x.abs().double() @ weight.abs().double().T + bias.abs().double()
        eps = torch.finfo(torch.float32).eps
        slope = activations.slope(act, float(stage.attrs.get("activation_parameter", 0.0)))
        return Tolerance(atol=slope * eps * (weight.shape[1] + 2) * magnitude + activations.error(act, magnitude))
    if stage.outputs[0].dtype == "int8":
        return Tolerance(steps=0 if act in activations.HOMOGENEOUS else 1)
    if act in activations.HOMOGENEOUS:
        return Tolerance()
    low = lower(stage)
    multiplier = low["multiplier"] if row_scale is None else low["multiplier"] * row_scale
    t = accumulate(x, weight, low["x_zero_point"]).float() * multiplier + low["offset"]
    return Tolerance(atol=activations.error(act, t))


def cost(problem: Problem) -> Cost:
    k, n, m = problem.in_widths[0], problem.out_widths[0], problem.matrix_rows
    size = {"float32": 4, "int8": 1}
    weight = problem.weight_format or WeightFormat.FLOAT32
    moved = weight.bytes_of(n * k) + 8 * n
    if weight.grouped:
        moved += 2 * n * math.ceil(k / int(problem.attrs["group_size"]))
    moved += int(m * k * size[problem.in_dtypes[0]] + m * n * size[problem.out_dtypes[0]])
    return Cost(bytes=moved, flops=2 * m * n * k)


def make_stage(
    k: int, n: int, scheme: str, activation: str = "none", parameter: float = 0.0, out: str = "float32", seed: int = 0
) -> Stage:
    """A stage with random weights. scheme: "float32", "static" or "dynamic"."""
    g = torch.Generator().manual_seed(seed)
    weight = torch.randn(n, k, generator=g) / max(k, 1) ** 0.5
    bias = torch.randn(n, generator=g)
    attrs = {"activation": activation, "activation_parameter": parameter}
    y = Value("y", n, out, QParams(0.037, -128 if activation == "relu" else 11) if out == "int8" else None)
    if scheme == "float32":
        return Stage("linear", "case", (Value("x", k),), (y,), {"weight": weight, "bias": bias}, attrs)
    q = torch.randint(-127, 128, (n, k), generator=g, dtype=torch.int8)
    tensors = {"weight": q, "weight_scale": torch.rand(n, generator=g) * 0.01 / max(k, 1) ** 0.5 + 1e-6, "bias": bias}
    if scheme == "dynamic":
        return Stage("linear", "case", (Value("x", k, "int8"), Value("s", 1)), (y,), tensors, attrs)
    zero_point = int(torch.randint(-128, 128, (1,), generator=g))
    return Stage("linear", "case", (Value("x", k, "int8", QParams(0.031, zero_point)),), (y,), tensors, attrs)


def make_inputs(stage: Stage, rows: int, seed: int) -> tuple[Tensor, ...]:
    g = torch.Generator().manual_seed(seed)
    k = stage.inputs[0].width
    if stage.inputs[0].dtype == "float32":
        return (torch.randn(rows, k, generator=g),)
    x = torch.randint(-128, 128, (rows, k), generator=g, dtype=torch.int8)
    return (x,) if len(stage.inputs) == 1 else (x, torch.rand(rows, 1, generator=g) * 0.02 + 1e-4)


def _case(rows: int, stage: Stage, label: str) -> Case:
    k, n = stage.inputs[0].width, stage.outputs[0].width
    act, out = stage.attrs["activation"], stage.outputs[0].dtype
    return Case(f"M{rows}-N{n}-K{k}-{label}-{act}-{out}", stage, lambda seed: make_inputs(stage, rows, seed))


def cases() -> Iterator[Case]:
    sizes: Iterable[tuple[int, int, int]] = (
        (1, 1, 1), (1, 16, 16), (2, 5, 3), (3, 17, 31), (1, 8, 128), (4, 128, 128), (5, 129, 65), (7, 33, 130), (1, 300, 257),
        (13, 70, 100), (16, 64, 64), (31, 129, 66), (9, 85, 205), (70, 97, 63),
    )  # fmt: skip
    for rows, n, k in sizes:
        yield _case(rows, make_stage(k, n, "float32"), "f32")
        for scheme in ("static", "dynamic"):
            yield _case(rows, make_stage(k, n, scheme), scheme)
            yield _case(rows, make_stage(k, n, scheme, "relu"), scheme)
        yield _case(rows, make_stage(k, n, "static", "relu", out="int8"), "static")
        yield _case(rows, make_stage(k, n, "static", "none", out="int8"), "static")
    for act, parameter in activations.beyond_relu():
        yield _case(3, make_stage(37, 45, "float32", act, parameter), "f32")
        yield _case(3, make_stage(37, 45, "static", act, parameter), "static")
        yield _case(3, make_stage(37, 45, "dynamic", act, parameter), "dynamic")
        yield _case(3, make_stage(37, 45, "static", act, parameter, out="int8"), "static")
        yield _case(19, make_stage(37, 45, "dynamic", act, parameter), "dynamic")
        yield _case(19, make_stage(37, 45, "static", act, parameter, out="int8"), "static")
    for rows, n, k in (
        (1, 1, 16),
        (5, 2, 41),
        (17, 3, 64),
        (33, 4, 70),
        (9, 7, 130),
        (2, 8, 128),
        (19, 1, 257),
        (4, 4, 63),
    ):
        for act in ("none", "relu", "sigmoid"):  # outputs that fill half a vector at most
            yield _case(rows, make_stage(k, n, "float32", act), "f32")
    for rows, stage, label in contract_weights.stages():
        yield _case(rows, stage, label)


OPERATOR = register_operator(
    Operator(
        name="linear",
        axes={"x": ("M", "K"), "weight": ("N", "K"), "weight_scale": ("N",), "bias": ("N",), "y": ("M", "N")},
        reference=reference,
        cases=cases,
        tolerance=tolerance,
        cost=cost,
        lower=lower,
        make_stage=make_stage,
        weights=convert.WEIGHTS,
        int8=Int8Flow(reads_rows=True, rounds_last=rounds_last),
        folding=convert.FOLDING,
        rows_needed=ROW_BY_ROW,
        streaming=STREAMS_ROWS,
        sparse=convert.LinearSparse(),
        fusion=LinearFusion(),
        planes=convert.LinearPlanes(),
    )
)
