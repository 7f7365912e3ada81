"""Norm: LayerNorm or RMSNorm of each row [M, C], with what stands around it in a transformer fused in.

    t[m, c] = x[m, c] + other[m, c]                                  (without `other`: t = x)
    layer:  y = act((t - mean) / sqrt(var + eps) * weight + bias)    mean = sum_c t / C, var = sum_c (t - mean)^2 / C
    rms:    y = act(t / sqrt(sum_c t^2 / C + eps) * weight + bias)

attrs: kind ("layer" | "rms"), eps, activation, activation_parameter, gives. tensors: weight [C], bias [C], both optional.

`gives` names the outputs in their order, separated by commas:

    y          float32 [M, C]
    q          int8 [M, C]: y as kernels/quantize does it; static where its value has a QParams, else dynamic
    row_scale  float32 [M, 1], the scale of each row of a dynamic q
    sum        float32 [M, C]: t, the residual stream of a pre-norm layer

Without it: "q,row_scale" or "q" or "y" by the dtype and QParams of the first output, then "sum" where one more is there.
A row with a NaN or an infinity gives NaN (layer) in float outputs; q holds it as kernels/quantize says.

The sums are taken in float32 over 64 partial sums and two passes, in an order that all instruction sets share; they
give the same bits for kinds without a transcendental activation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from rtaccel.core.errors import FormatError
from rtaccel.core.registry import Case, Cost, Operator, Tolerance, register_operator
from rtaccel.core.row_traits import ROW_BY_ROW, STREAMS_ROWS
from rtaccel.core.stage import Problem, QParams, Stage, Value
from rtaccel.core.stage_traits import Int8Flow
from rtaccel.core.traits import Folding
from rtaccel.formats.int8 import inverse_scale
from rtaccel.kernels._common import activations
from rtaccel.kernels.quantize import contract as quantize

ROLES = ("y", "q", "row_scale", "sum")


def roles(stage: Stage) -> tuple[str, ...]:
    """What each output is. Raises FormatError for a list that does not fit the stage."""
    if "gives" in stage.attrs:
        names = tuple(str(stage.attrs["gives"]).split(","))
    else:
        first = stage.outputs[0]
        names = ("y",) if first.dtype == "float32" else ("q",) if first.quant else ("q", "row_scale")
        names += ("sum",) * (len(stage.outputs) - len(names))
    fits = (
        len(names) == len(stage.outputs) == len(set(names))
        and set(names) <= set(ROLES)
        and {"y", "q"} & set(names)
        and all((v.dtype == "int8") == (n == "q") for n, v in zip(names, stage.outputs))
    )
    dynamic = any(n == "q" and v.quant is None for n, v in zip(names, stage.outputs))
    if not fits or dynamic != ("row_scale" in names):
        raise FormatError(
            "norm",
            f"gives {','.join(names)!r} for {len(stage.outputs)} outputs",
            "y or q, a row_scale with just a dynamic q, each once, one for each output",
            "Name the outputs in their order.",
        )
    return names


def lower(stage: Stage) -> Mapping[str, Any]:
    kind, width = stage.attrs.get("kind", "layer"), stage.inputs[0].width
    if kind not in ("layer", "rms"):
        raise FormatError("norm", f"kind {kind!r}", '"layer" or "rms"', "Name one of these.")
    names = roles(stage)
    quant = next((v.quant for n, v in zip(names, stage.outputs) if n == "q"), None)
    like = torch.ones(width, dtype=torch.float32, device="cpu")
    return {
        "kind": kind,
        "eps": float(stage.attrs.get("eps", 1e-5)),
        "weight": stage.tensors.get("weight", like),
        "bias": stage.tensors.get("bias", torch.zeros_like(like)),
        "activation": stage.attrs.get("activation", "none"),
        "activation_parameter": float(stage.attrs.get("activation_parameter", 0.0)),
        "inv_scale": 0.0 if quant is None else inverse_scale(quant),
        "zero_point": 0 if quant is None else quant.zero_point,
        **{f"{role}_at": names.index(role) if role in names else -1 for role in ROLES},
    }


def arrange(stage: Stage, low: Mapping[str, Any], t: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    """The outputs of the stage in their order, from the sum t and the float32 result y."""
    made = {"y": y, "sum": t}
    if low["row_scale_at"] >= 0:
        made["q"], made["row_scale"] = quantize.dynamic(y)
    elif low["q_at"] >= 0:
        made["q"] = quantize.static(y, low["inv_scale"], low["zero_point"])
    return tuple(made[role] for role in roles(stage))


def reference(stage: Stage, x: Tensor, other: Tensor | None = None) -> tuple[Tensor, ...]:
    low = lower(stage)
    t = x if other is None else x + other
    d = t.double()
    if low["kind"] == "layer":
        d = d - d.mean(-1, keepdim=True)
    z = d / (d.square().mean(-1, keepdim=True) + low["eps"]).sqrt() * low["weight"].double() + low["bias"].double()
    return arrange(stage, low, t, activations.apply(low["activation"], z, low["activation_parameter"]).float())


def tolerance(stage: Stage, x: Tensor, other: Tensor | None = None) -> Tolerance:
    """Of each row, from the two sums (C / 64 + 6 additions deep) and the roundings after them; int8 within a step.

    u is the unit of float32, n the depth. |mean' - mean| <= n u mean|t|; a deviation d is off by that and one
    rounding; var by n u var + 2 max(off) mean|d| + off^2; the result by 6 more roundings.
    """
    low = lower(stage)
    u = torch.finfo(torch.float32).eps
    t = (x if other is None else x + other).double()
    c = t.shape[1]
    n = c / 64 + 10
    off = torch.zeros_like(t[:, :1])
    d = t
    if low["kind"] == "layer":
        mean = t.mean(-1, keepdim=True)
        off = n * u * t.abs().mean(-1, keepdim=True)
        d = t - mean
    off_d = off + u * d.abs()
    var = d.square().mean(-1, keepdim=True)
    off_var = n * u * var + 2 * (off_d * d.abs()).mean(-1, keepdim=True) + off_d.square().mean(-1, keepdim=True)
    low_root = ((var - off_var).clamp(min=0) + low["eps"] * (1 - u)).sqrt()
    root = (var + low["eps"]).sqrt()
    z, w = d / root, low["weight"].double().abs()
    error = w * (off_d / low_root + z.abs() * (root / low_root - 1)) + 6 * u * (
        w * z.abs() + low["bias"].double().abs()
    )
    value = w * z.abs() + low["bias"].double().abs() + error
    slope = activations.slope(low["activation"], low["activation_parameter"])
    error = slope * error + activations.error(low["activation"], value) + u * value
    return Tolerance(atol=error.amax(-1, keepdim=True) if c else torch.zeros(t.shape[0], 1), steps=1)


def make_stage(
    c: int, kind: str, gives: str, quant: QParams | None = None, residual: bool = False, affine: bool = True,
    activation: str = "none", eps: float = 1e-5,
) -> Stage:  # fmt: skip
    g = torch.Generator().manual_seed(c)
    tensors = {"weight": torch.randn(c, generator=g), "bias": torch.randn(c, generator=g)} if affine else {}
    values = {"y": Value("y", c), "q": Value("q", c, "int8", quant), "row_scale": Value("s", 1), "sum": Value("t", c)}
    inputs = (Value("x", c), Value("r", c)) if residual else (Value("x", c),)
    attrs = {"kind": kind, "eps": eps, "gives": gives, "activation": activation}
    return Stage("norm", "case", inputs, tuple(values[role] for role in gives.split(",")), tensors, attrs)


def cases() -> Iterator[Case]:
    quant = QParams(0.031, 5)
    forms: tuple[tuple[str, QParams | None, bool], ...] = (
        ("y", None, False), ("y", None, True), ("y,sum", None, True), ("q", quant, True), ("q,sum", quant, True),
        ("q,row_scale", None, True), ("q,row_scale,sum", None, True), ("q,row_scale,y", None, False), ("q,y", quant, True),
    )  # fmt: skip
    for index, (rows, c) in enumerate(((1, 1), (3, 17), (2, 64), (5, 131), (1, 385))):
        for form, (gives, q, residual) in enumerate(forms):
            kind = ("layer", "rms")[(index + form) % 2]
            yield _case(make_stage(c, kind, gives, q, residual), rows, f"{kind}-{gives}")
    for kind in ("layer", "rms"):
        yield _case(make_stage(45, kind, "y", affine=False), 4, f"{kind}-plain")
        for act in ("relu", "gelu"):
            yield _case(make_stage(45, kind, "y,q", quant, activation=act), 4, f"{kind}-{act}")
            yield _case(make_stage(70, kind, "q,row_scale", activation=act), 2, f"{kind}-{act}")


def _case(stage: Stage, rows: int, label: str) -> Case:
    def make(seed: int) -> tuple[Tensor, ...]:
        g = torch.Generator().manual_seed(seed)
        # An offset, which a variance in one pass would lose.
        return tuple(torch.randn(rows, v.width, generator=g) * 2 + 3 for v in stage.inputs)

    return Case(f"M{rows}-C{stage.inputs[0].width}-{label}", stage, make)


def cost(problem: Problem) -> Cost:
    elements = problem.matrix_rows * problem.in_widths[0]
    outs = sum(m * (1 if d == "int8" else 4) for m, d in zip(problem.out_widths, problem.out_dtypes))
    return Cost(bytes=4 * elements * len(problem.in_widths) + problem.matrix_rows * outs, flops=8 * elements)


OPERATOR = register_operator(
    Operator(
        name="norm",
        axes={
            "x": ("M", "C"), "other": ("M", "C"), "weight": ("C",), "bias": ("C",), "y": ("M", "C"), "q": ("M", "C"),
            "row_scale": ("M", "1"), "sum": ("M", "C"),
        },
        reference=reference,
        cases=cases,
        tolerance=tolerance,
        cost=cost,
        lower=lower,
        make_stage=make_stage,
        int8=Int8Flow(beside=True),
        folding=Folding(activation=False, sum_before=True),
        rows_needed=ROW_BY_ROW,
        streaming=STREAMS_ROWS,
    )
)  # fmt: skip
