"""Pointwise: y = act(join(x * scale + shift, other)), on matrices [M, C], computed in float32.

scale and shift [C] are optional and go together (a BatchNorm that found no linear layer to fold into);
`other` [M, C] is an optional second input, and attrs["join"] says what it does:

add      t + other                           a residual; the default
mul      t * other                           a gate
hypot    sqrt(t * t + other * other)         a magnitude; squares beyond float32 overflow, as they do in torch.sqrt

Each product, sum and root rounds once.

x and other may be int8 with a QParams each: they count as float32(q - zero_point) * scale, one rounding. y may be int8
with a QParams: clamp(rint(act(t) * y_inv_scale) + y_zero_point, -128, 127). A residual or an activation between int8
layers is then one pass. A float32 input that is not finite and goes to int8 is marked by the plan.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from rtaccel.core.errors import FormatError
from rtaccel.core.registry import Case, Cost, Operator, Tolerance, register_operator
from rtaccel.core.row_traits import ROW_BY_ROW, STREAMS_ELEMENTS
from rtaccel.core.stage import Problem, QParams, Stage, Value
from rtaccel.core.stage_traits import EachElement, Int8Flow, static_inside
from rtaccel.formats.int8 import dequantize, inverse_scale, to_int8
from rtaccel.kernels._common import activations
from rtaccel.kernels.pointwise import convert

JOINS = {
    "add": lambda t, other: t + other,
    "mul": lambda t, other: t * other,
    "hypot": lambda t, other: (
        (t * t + other * other).double().sqrt().float()
    ),  # torch.sqrt of float32 may be a unit off
}


def lower(stage: Stage) -> Mapping[str, Any]:
    join = stage.attrs.get("join", "add")
    if join not in JOINS:
        raise FormatError("pointwise", f"join {join!r}", f"one of {', '.join(JOINS)}", "Name one of these.")
    low: dict[str, Any] = {
        "join": join,
        "activation": stage.attrs.get("activation", "none"),
        "activation_parameter": float(stage.attrs.get("activation_parameter", 0.0)),
    }
    if "scale" in stage.tensors:
        low["scale"], low["shift"] = stage.tensors["scale"], stage.tensors["shift"]
    for name, value in zip(("x", "other"), stage.inputs):
        if value.quant is not None:
            low[f"{name}_scale"], low[f"{name}_zero_point"] = value.quant.scale, value.quant.zero_point
    y = stage.outputs[0].quant
    if y is not None:
        low["y_inv_scale"], low["y_zero_point"] = inverse_scale(y), y.zero_point
    return low


def real(value: Value, x: Tensor) -> Tensor:
    return x if value.quant is None else dequantize(x, value.quant)


def rounds_last(stage: Stage) -> bool:
    """`epilogue` is the last thing that it does."""
    return True


def before_activation(stage: Stage, x: Tensor, other: Tensor | None) -> Tensor:
    x = real(stage.inputs[0], x)
    if "scale" in stage.tensors:
        x = x * stage.tensors["scale"] + stage.tensors["shift"]
    return x if other is None else JOINS[stage.attrs.get("join", "add")](x, real(stage.inputs[1], other))


def epilogue(low: Mapping[str, Any], a: Tensor) -> Tensor:
    return to_int8(a, low["y_inv_scale"], low["y_zero_point"]) if "y_inv_scale" in low else a


def reference(stage: Stage, x: Tensor, other: Tensor | None = None) -> tuple[Tensor]:
    low = lower(stage)
    t = before_activation(stage, x, other)
    return (epilogue(low, activations.apply(low["activation"], t.double(), low["activation_parameter"]).float()),)


def tolerance(stage: Stage, x: Tensor, other: Tensor | None = None) -> Tolerance:
    act = stage.attrs.get("activation", "none")
    if act in ("none", "relu"):
        return Tolerance()
    if stage.outputs[0].dtype == "int8":
        return Tolerance(steps=1)
    t = before_activation(stage, x, other)
    if (
        act in activations.HOMOGENEOUS
    ):  # leaky_relu: the reference multiplies in float64, so its one rounding may differ
        return Tolerance(atol=t.abs() * torch.finfo(torch.float32).eps)
    return Tolerance(atol=activations.error(act, t))


def make_stage(c: int, activation: str, parameter: float = 0.0, affine: bool = False, residual: bool = False) -> Stage:
    g = torch.Generator().manual_seed(c)
    tensors = {"scale": torch.randn(c, generator=g), "shift": torch.randn(c, generator=g)} if affine else {}
    inputs = (Value("x", c), Value("r", c)) if residual else (Value("x", c),)
    attrs = {"activation": activation, "activation_parameter": parameter}
    return Stage("pointwise", "case", inputs, (Value("y", c),), tensors, attrs)


def cases() -> Iterator[Case]:
    for index, act in enumerate(activations.ACTIVATIONS):
        for rows, c in ((1, 1), (3, 17), (2, 64), (5, 131), (70, 4), (19, 6)):
            affine, residual = bool((index + c) % 2), bool((index + rows) % 2)
            stage = make_stage(c, act, activations.ROWS[act].example, affine, residual)

            def make(seed: int, rows: int = rows, c: int = c, n: int = len(stage.inputs)) -> tuple[Tensor, ...]:
                g = torch.Generator().manual_seed(seed)
                return tuple(torch.randn(rows, c, generator=g) * 4 for _ in range(n))

            label = f"{act}{'-affine' if affine else ''}{'-residual' if residual else ''}"
            yield Case(f"M{rows}-C{c}-{label}", stage, make)
    yield from _int8_cases()
    yield from _quantize_cases()
    for index, join in enumerate(("mul", "hypot") * 4):
        dtype = ("float32", "int8")[index // 4]
        plain = make_stage((1, 17, 64, 131)[index % 4], ("none", "silu")[index // 2 % 2], 0.0, index % 3 == 0, True)
        c = plain.inputs[0].width
        out = Value("y", c, dtype, QParams(0.043, -9) if dtype == "int8" else None)
        stage = Stage("pointwise", "case", plain.inputs, (out,), plain.tensors, {**plain.attrs, "join": join})

        def joined(seed: int, c: int = c) -> tuple[Tensor, Tensor]:
            g = torch.Generator().manual_seed(seed)
            return torch.randn(3, c, generator=g) * 2, torch.randn(3, c, generator=g) * 2

        yield Case(f"M3-C{c}-{join}-{dtype}-{stage.attrs['activation']}", stage, joined)


def _quantize_cases() -> Iterator[Case]:
    """float32 whose columns are brought to one range, with and without a shift, becomes int8 and nothing else."""
    for rows, c in ((1, 17), (2, 64), (3, 131), (1, 200)):
        for form in ("plain", "scaled", "affine"):
            plain = make_stage(c, "none", 0.0, form != "plain", False)
            tensors = dict(plain.tensors)
            if form == "scaled":
                tensors["shift"] = torch.zeros(c)
            out = Value("y", c, "int8", QParams(0.043, -9))
            stage = Stage("pointwise", "case", plain.inputs, (out,), tensors, plain.attrs)

            def make(seed: int, rows: int = rows, c: int = c) -> tuple[Tensor, ...]:
                return (torch.randn(rows, c, generator=torch.Generator().manual_seed(seed)) * 4,)

            yield Case(f"M{rows}-C{c}-quantize-{form}", stage, make)


def _int8_cases() -> Iterator[Case]:
    """Every mixture of types, with every activation, over odd sizes."""
    types = [(x, r, y) for x in ("float32", "int8") for r in (None, "float32", "int8") for y in ("float32", "int8")]
    for index, (x, r, y) in enumerate(types[1:]):
        for number, act in enumerate(activations.ACTIVATIONS):
            rows, c = ((1, 1), (3, 17), (2, 64), (5, 131))[(index + number) % 4]
            plain = make_stage(c, act, activations.ROWS[act].example, bool((index + number) % 2), r is not None)
            quants = (QParams(0.031, 5), QParams(0.022, -128))
            inputs = tuple(
                Value(v.name, c, "int8", q) if dtype == "int8" else v
                for v, dtype, q in zip(plain.inputs, (x, r), quants)
            )
            out = Value("y", c, y, QParams(0.043, -9) if y == "int8" else None)
            stage = Stage("pointwise", "case", inputs, (out,), plain.tensors, plain.attrs)

            def make(seed: int, stage: Stage = stage, rows: int = rows, c: int = c) -> tuple[Tensor, ...]:
                g = torch.Generator().manual_seed(seed)
                return tuple(
                    torch.randint(-128, 128, (rows, c), generator=g, dtype=torch.int8)
                    if v.dtype == "int8"
                    else torch.randn(rows, c, generator=g) * 2
                    for v in stage.inputs
                )

            yield Case(f"M{rows}-C{c}-{act}-{x}-{r}-{y}", stage, make)


def cost(problem: Problem) -> Cost:
    elements = problem.matrix_rows * problem.out_widths[0]
    size = sum(1 if dtype == "int8" else 4 for dtype in (*problem.in_dtypes, *problem.out_dtypes))
    return Cost(bytes=size * elements, flops=2 * elements)


OPERATOR = register_operator(
    Operator(
        name="pointwise",
        axes={"x": ("M", "C"), "other": ("M", "C"), "scale": ("C",), "shift": ("C",), "y": ("M", "C")},
        reference=reference,
        cases=cases,
        tolerance=tolerance,
        cost=cost,
        lower=lower,
        make_stage=make_stage,
        int8=Int8Flow(writes=True, marks=static_inside, rounds_last=rounds_last),
        folding=convert.FOLDING,
        elementwise=convert.Pointwise(),
        merging=convert.Joining(),
        rows_needed=ROW_BY_ROW,
        streaming=STREAMS_ELEMENTS,
        planes=EachElement(),
        squares=convert.Gate(),
        formula=convert.Function(),
    )
)
