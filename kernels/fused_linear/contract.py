"""Fused linear: quantize the rows of x, multiply, activate, add a residual, requantize; one launch on a GPU.

    y = requantize(act(linear(quantize(x))) + residual)

x [M, K], weight [N, K], bias [N], residual [M, N], y [M, N]. attrs:

input_format "none": x as `linear` takes it (int8 with a QParams, or float32 with weights of any format of contract_weights)
             "int8": float32 x to int8 rows as the `quantize` operator does, for int8 or int4 weights
             "static": the same with one scale, x_scale and x_zero_point. A row that holds a NaN or an infinity counts as q = 0 in
               int8 outputs, and is NaN in float32 ones
             "float8": float32 x to e4m3 rows (formats/fp8.py), for float8_e4m3fn weights with weight_scale [N]:
               t[m, n] = (sum_k x8[m, k] * w8[n, k]) * float32(weight_scale[n] * row_scale[m]) + bias[n]
residual     True: the last input is a residual, float32; act(t) + residual rounds once
activation, activation_parameter, group_size: as for linear

int8 output: clamp(rint((act(t) + residual) * y_inv_scale) + y_zero_point, -128, 127), y_inv_scale = float32(1 / scale).

Where the rounding of float sums is free: float8 products are exact in float32; the tensor cores of some cards keep only
14 bits of a running float8 sum, so a float8 result may be off by 2^-12 of the sum of magnitudes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rtaccel.core.errors import FormatError
from rtaccel.core.registry import Case, Cost, Operator, Tolerance, register_operator
from rtaccel.core.stage import Problem, QParams, Stage, Value
from rtaccel.core.stage_traits import Int8Flow, static_inside
from rtaccel.core.traits import Weights
from rtaccel.core.weight_format import WeightFormat
from rtaccel.formats import fp8, int8
from rtaccel.formats.int8 import inverse_scale, to_int8
from rtaccel.kernels._common import activations
from rtaccel.kernels.fused_linear.fusion import ResidualFusion
from rtaccel.kernels.linear import contract as linear
from rtaccel.kernels.linear import contract_weights
from rtaccel.kernels.linear.convert import only_weight
from rtaccel.kernels.quantize import contract as quantize

EPS = torch.finfo(torch.float32).eps
FLOAT8_SUM = 2.0**-12


def input_format(stage: Stage) -> str:
    """What is done to the rows of x. Raises FormatError for what the weights do not go with."""
    how = str(stage.attrs.get("input_format", "none"))
    weight = WeightFormat.of(stage.tensors["weight"])
    float8 = weight is WeightFormat.FLOAT8
    fits = {"none": not float8, "int8": weight.integer, "static": weight.integer, "float8": float8}
    if not fits.get(how, False):
        raise FormatError(
            "fused_linear", f"input_format={how!r} with {weight} weights", "none, int8, static or float8 as the weights are",
            "See its contract.",
        )  # fmt: skip
    return how


def x_quant(stage: Stage) -> QParams:
    """Of x, where one scale quantizes it inside."""
    return QParams(float(stage.attrs["x_scale"]), int(stage.attrs["x_zero_point"]))


def static_scale(stage: Stage) -> tuple[float, int]:
    """(what x is multiplied by, its zero point), where one scale quantizes it inside."""
    quant = x_quant(stage)
    return inverse_scale(quant), quant.zero_point


def quantized(stage: Stage, x: Tensor) -> tuple[Tensor, ...]:
    """x as the linear layer inside takes it."""
    how = input_format(stage)
    if how == "static":
        return (quantize.static(x, *static_scale(stage)),)
    return int8.dynamic(x) if how == "int8" else (x,)


def handed_on(stage: Stage, x: Tensor, a: Tensor) -> Tensor:
    """`a` with NaN in the rows that a static scale cannot hold."""
    if input_format(stage) != "static" or stage.outputs[0].dtype == "int8":
        return a
    return a.masked_fill(~torch.isfinite(x).all(-1, keepdim=True), float("nan"))


def hands_on(stage: Stage) -> bool:
    """Whether a row of float32 x that int8 cannot hold is NaN in y."""
    inside = stage.attrs.get("input_format", "none") in ("int8", "static")
    return inside and stage.outputs[0].dtype == "float32"


def inner(stage: Stage) -> Stage:
    """The linear layer inside, with a float32 output; not for float8."""
    x, n = stage.inputs[0], stage.outputs[0].width
    inputs: tuple[Value, ...] = (x,)
    how = input_format(stage)
    if how == "int8":
        inputs = (Value("q", x.width, "int8"), Value("row_scale", 1))
    elif how == "static":
        inputs = (Value("q", x.width, "int8", x_quant(stage)),)
    return Stage("linear", stage.name, inputs, (Value("a", n),), stage.tensors, stage.attrs)


def lower(stage: Stage) -> Mapping[str, Any]:
    y = stage.outputs[0].quant
    out: dict[str, Any] = {"y_inv_scale": 1.0, "y_zero_point": 0}
    if y is not None:
        out = {"y_inv_scale": inverse_scale(y), "y_zero_point": y.zero_point}
    how = input_format(stage)
    if how == "static":
        out |= dict(zip(("x_inv_scale", "x_zero_point"), static_scale(stage)))
    if how != "float8":
        return {**linear.lower(inner(stage)), **out}
    scale = stage.tensors["weight_scale"]
    return {
        "weight": stage.tensors["weight"],
        "multiplier": scale,
        "offset": stage.tensors.get("bias", torch.zeros_like(scale)),
        "activation": stage.attrs.get("activation", "none"),
        "activation_parameter": float(stage.attrs.get("activation_parameter", 0.0)),
        **out,
    }


def _activated(stage: Stage, x: Tensor) -> tuple[Tensor, Tensor | float]:
    """act(t) and how far a kernel may be from it."""
    how = input_format(stage)
    if how != "float8":
        made, inputs = inner(stage), quantized(stage, x)
        return handed_on(stage, x, linear.reference(made, *inputs)[0]), linear.tolerance(made, *inputs).atol
    low = lower(stage)
    q, row_scale = fp8.dynamic(x)
    scale, offset = (low["multiplier"] * row_scale).double(), low["offset"].double()
    wide, weight = q.double(), low["weight"].double()
    a = activations.apply(low["activation"], (wide @ weight.T) * scale + offset, low["activation_parameter"]).float()
    magnitude = (wide.abs() @ weight.abs().T) * scale + offset.abs()
    slope = activations.slope(low["activation"], low["activation_parameter"])
    return a, slope * (FLOAT8_SUM + 4 * EPS) * magnitude + activations.error(low["activation"], magnitude)


def reference(stage: Stage, x: Tensor, residual: Tensor | None = None) -> tuple[Tensor]:
    a, _ = _activated(stage, x)
    if residual is not None:
        a = a + residual
    if stage.outputs[0].dtype == "int8":
        low = lower(stage)
        return (to_int8(a, low["y_inv_scale"], low["y_zero_point"]),)
    return (a,)


def tolerance(stage: Stage, x: Tensor, residual: Tensor | None = None) -> Tolerance:
    a, atol = _activated(stage, x)
    exact = not torch.as_tensor(atol).any()
    if stage.outputs[0].dtype == "int8":
        if input_format(stage) == "float8":
            low = lower(stage)
            steps = (torch.as_tensor(atol) * low["y_inv_scale"]).nan_to_num()
            return Tolerance(steps=1 + (int(steps.max().ceil()) if steps.numel() else 0))
        return Tolerance(steps=0 if exact else 1)
    if exact or residual is None:
        return Tolerance(atol=atol)
    return Tolerance(atol=torch.as_tensor(atol) + EPS * (a.abs() + residual.abs()).double())


def cost(problem: Problem) -> Cost:
    as_linear = replace(
        problem,
        op="linear",
        in_widths=problem.in_widths[:1],
        in_dtypes=problem.in_dtypes[:1],
    )
    found = linear.cost(as_linear)
    extra = 4 * problem.matrix_rows * problem.out_widths[0] if problem.attrs.get("residual") else 0
    return Cost(bytes=found.bytes + extra, flops=found.flops)


def make_stage(
    k: int, n: int, kind: str, activation: str = "none", parameter: float = 0.0, residual: bool = False,
    out: str = "float32", group_size: int = 32,
) -> Stage:  # fmt: skip
    """A stage with random weights. kind: "w8a8-static", "w8a8-rows", "w4a8-rows", "float8", or "w8a8-inside" and "w4a8-inside",
    whose x is quantized inside by one scale, or one of linear's others ("bfloat16", "w8a16", "w4a16", "w4a8-static")."""
    inside = kind.endswith("-inside")
    if kind in ("w8a8-static", "w8a8-rows", "w8a8-inside", "float8"):
        static = inside or kind == "w8a8-static"
        made = linear.make_stage(k, n, "static" if static else "dynamic", activation, parameter)
    else:
        weights = {"w4a8-rows": "w4a8-dynamic", "w4a8-inside": "w4a8-static"}.get(kind, kind)
        made = contract_weights.make_stage(k, n, weights, activation, parameter, group_size=group_size)
    tensors = dict(made.tensors)
    if kind == "float8":
        g = torch.Generator().manual_seed(k + n)
        weight = torch.randn(n, k, generator=g) / max(k, 1) ** 0.5
        tensors["weight"], tensors["weight_scale"] = fp8.quantize_weight(weight)
    how = "static" if inside else {"float8": "float8", "w8a8-rows": "int8", "w4a8-rows": "int8"}.get(kind, "none")
    x = Value("x", k) if how != "none" else made.inputs[0]
    quant = made.inputs[0].quant
    more = {"x_scale": quant.scale, "x_zero_point": quant.zero_point} if inside and quant is not None else {}
    inputs = (x, Value("r", n)) if residual else (x,)
    y = Value("y", n, out, QParams(0.037, 11) if out == "int8" else None)
    attrs = {**made.attrs, "input_format": how, "residual": residual, **more}
    return Stage("fused_linear", "case", inputs, (y,), tensors, attrs)


def make_inputs(stage: Stage, rows: int, seed: int) -> tuple[Tensor, ...]:
    g = torch.Generator().manual_seed(seed)
    x: Tensor = torch.randn(rows, stage.inputs[0].width, generator=g)
    if stage.inputs[0].dtype == "int8":
        x = torch.randint(-128, 128, x.shape, generator=g, dtype=torch.int8)
    if not stage.attrs["residual"]:
        return (x,)
    return x, torch.randn(rows, stage.outputs[0].width, generator=g)


KINDS = (
    "w8a8-static", "w8a8-rows", "w4a8-rows", "float8", "bfloat16", "w8a16", "w4a16", "w4a8-static", "w8a8-inside", "w4a8-inside",
)  # fmt: skip


def cases() -> Iterator[Case]:
    def case(rows: int, stage: Stage, kind: str) -> Case:
        n, k, out = stage.outputs[0].width, stage.inputs[0].width, stage.outputs[0].dtype
        label = f"{kind}-{stage.attrs['activation']}{'-residual' if stage.attrs['residual'] else ''}-{out}"
        return Case(f"M{rows}-N{n}-K{k}-{label}", stage, lambda seed: make_inputs(stage, rows, seed))

    for kind in KINDS:
        for rows, n, k in ((1, 1, 1), (2, 5, 35), (3, 17, 130), (17, 33, 96)):
            yield case(rows, make_stage(k, n, kind, residual=rows != 2), kind)
        for residual in (False, True):
            yield case(3, make_stage(68, 19, kind, "relu", residual=residual, out="int8"), kind)
            yield case(2, make_stage(45, 37, kind, "gelu", residual=residual), kind)
        yield case(4, make_stage(52, 21, kind, "elu", 1.3, residual=True, out="int8"), kind)


OPERATOR = register_operator(
    Operator(
        name="fused_linear",
        axes={"x": ("M", "K"), "weight": ("N", "K"), "residual": ("M", "N"), "y": ("M", "N")},
        reference=reference,
        cases=cases,
        tolerance=tolerance,
        cost=cost,
        lower=lower,
        make_stage=make_stage,
        weights=Weights(only_weight),
        int8=Int8Flow(marks=static_inside, hands_on=hands_on, rounds_last=linear.rounds_last),
        fusion=ResidualFusion(),
    )
)
