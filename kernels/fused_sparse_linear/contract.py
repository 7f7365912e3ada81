"""Fused sparse linear: y = sparse_linear(quantize(x)); one launch on a GPU.

x float32 [M, K] becomes int8 rows with a scale each, as the `quantize` operator makes them; everything else, W in its three
forms above all, is that of `sparse_linear` with dynamic int8 rows: int8 weights, or int4 ones in 2:4. y is float32, or int8 with
a static scale. A row of x with a NaN or an infinity gives NaN. attrs x_scale and x_zero_point: one scale for all rows, as in
`fused_linear`; such a row then counts as q = 0 in int8 outputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rtaccel.core.registry import Case, Cost, Operator, Tolerance, register_operator
from rtaccel.core.stage import Problem, QParams, Stage, Value
from rtaccel.core.stage_traits import Int8Flow, static_inside
from rtaccel.core.traits import Weights
from rtaccel.formats import int8
from rtaccel.kernels.fused_linear import contract as dense
from rtaccel.kernels.linear.convert import only_weight
from rtaccel.kernels.quantize import contract as quantize
from rtaccel.kernels.sparse_linear import contract as sparse


def is_static(stage: Stage) -> bool:
    """Whether one scale quantizes all rows."""
    return "x_scale" in stage.attrs


def inner(stage: Stage) -> Stage:
    """The stage of `sparse_linear` that computes it from quantized rows."""
    k = stage.inputs[0].width
    if is_static(stage):
        return replace(stage, op="sparse_linear", inputs=(Value("q", k, "int8", dense.x_quant(stage)),))
    return replace(stage, op="sparse_linear", inputs=(Value("q", k, "int8"), Value("row_scale", 1)))


def fused(stage: Stage, x: Value, quant: QParams | None = None) -> Stage:
    """A stage of `sparse_linear` that reads the float32 value x instead. quant: of x, else each row has a scale of its own."""
    more = {} if quant is None else {"x_scale": quant.scale, "x_zero_point": quant.zero_point}
    return replace(stage, op="fused_sparse_linear", inputs=(x,), attrs={**stage.attrs, **more})


def inner_problem(problem: Problem, marked: bool = False) -> Problem:
    """marked: rows quantized by one scale come with marks in the place of scales."""
    both = marked or "x_scale" not in problem.attrs
    return replace(
        problem,
        op="sparse_linear",
        in_widths=(problem.in_widths[0], 1) if both else problem.in_widths,
        in_dtypes=("int8", "float32") if both else ("int8",),
        in_steps=problem.in_steps * (2 if both else 1),
    )


def quantized(stage: Stage, x: Tensor) -> tuple[Tensor, ...]:
    """x as the stage inside takes it."""
    return (quantize.static(x, *dense.static_scale(stage)),) if is_static(stage) else int8.dynamic(x)


def handed_on(stage: Stage, x: Tensor, y: Tensor) -> Tensor:
    """y with NaN in the rows that a static scale cannot hold."""
    if not hands_on(stage) or not is_static(stage):
        return y
    return y.masked_fill(~torch.isfinite(x).all(-1, keepdim=True), float("nan"))


def hands_on(stage: Stage) -> bool:
    """Whether a row of x that int8 cannot hold is NaN in y."""
    return stage.outputs[0].dtype == "float32"


def reference(stage: Stage, x: Tensor) -> tuple[Tensor]:
    return (handed_on(stage, x, sparse.reference(inner(stage), *quantized(stage, x))[0]),)


def tolerance(stage: Stage, x: Tensor) -> Tolerance:
    return sparse.tolerance(inner(stage), *quantized(stage, x))


def cost(problem: Problem) -> Cost:
    found = sparse.cost(inner_problem(problem))
    return Cost(bytes=found.bytes + 3 * problem.matrix_rows * problem.in_widths[0], flops=found.flops)


def lower(stage: Stage) -> Mapping[str, Any]:
    return sparse.lower(inner(stage))


def make_stage(k: int, n: int, layout: str, density: float, scheme: str = "dynamic", **options: Any) -> Stage:
    """A stage with random weights: scheme "dynamic", "static" (W8A8), "w4a8-dynamic" or "w4a8-static"; options as for
    sparse_linear."""
    made = sparse.make_stage(k, n, scheme, layout, density, **options)
    return fused(made, Value("x", k), made.inputs[0].quant)


def make_inputs(stage: Stage, rows: int, seed: int) -> tuple[Tensor, ...]:
    return (torch.randn(rows, stage.inputs[0].width, generator=torch.Generator().manual_seed(seed)),)


def cases() -> Iterator[Case]:
    def case(rows: int, stage: Stage, label: str) -> Case:
        n, k, out = stage.outputs[0].width, stage.inputs[0].width, stage.outputs[0].dtype
        name = f"M{rows}-N{n}-K{k}-{stage.attrs['layout']}-{label}-{stage.attrs['activation']}-{out}"
        return Case(name, stage, lambda seed: make_inputs(stage, rows, seed))

    for layout in sparse.LAYOUTS:
        for rows, n, k, density in (
            (1, 1, 1, 0.5),
            (2, 5, 35, 0.4),
            (3, 17, 130, 0.2),
            (4, 70, 257, 0.1),
            (5, 40, 64, 0.0),
        ):
            yield case(rows, make_stage(k, n, layout, density), "int8")
        yield case(2, make_stage(68, 19, layout, 0.3, activation="relu", out="int8"), "int8")
        yield case(3, make_stage(45, 37, layout, 0.3, activation="gelu"), "int8")
        for rows, n, k, out in ((1, 1, 1, "float32"), (3, 17, 131, "int8"), (7, 40, 96, "float32")):
            yield case(rows, make_stage(k, n, layout, 0.3, "static", activation="relu", out=out), "int8-one-scale")
    for rows, k in ((1, 35), (3, 132)):
        for scheme, label in (("w4a8-dynamic", "int4"), ("w4a8-static", "int4-one-scale")):
            yield case(rows, make_stage(k, 21, "2:4", 0.5, scheme, activation="relu", group_size=32), label)


OPERATOR = register_operator(
    Operator(
        name="fused_sparse_linear",
        axes={"x": ("M", "K"), "weight_scale": ("N",), "bias": ("N",), "y": ("M", "N")},
        reference=reference,
        cases=cases,
        tolerance=tolerance,
        cost=cost,
        lower=lower,
        packed_bytes=lambda stage: sparse.packed_bytes(inner(stage)),
        make_stage=make_stage,
        weights=Weights(only_weight, inside="dynamic"),
        int8=Int8Flow(marks=static_inside, hands_on=hands_on),
    )
)
