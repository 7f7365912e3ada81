"""Fused sparse linear: y = sparse_linear(quantize(x)); one launch on a GPU.

x float32 [M, K] becomes int8 rows with a scale each, as the `quantize` operator makes them; everything else, W in its three
forms above all, is that of `sparse_linear` with dynamic int8 rows: int8 weights, or int4 ones in 2:4. y is float32, or int8 with
a static scale. A row of x with a NaN or an infinity gives NaN.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rtaccel.core.registry import Case, Cost, Operator, Tolerance, register_operator
from rtaccel.core.stage import Problem, Stage, Value
from rtaccel.core.traits import Weights
from rtaccel.formats import int8
from rtaccel.kernels.linear.convert import only_weight
from rtaccel.kernels.sparse_linear import contract as sparse


def inner(stage: Stage) -> Stage:
    """The stage of `sparse_linear` that computes it from quantized rows."""
    k = stage.inputs[0].width
    return replace(stage, op="sparse_linear", inputs=(Value("q", k, "int8"), Value("row_scale", 1)))


def fused(stage: Stage, x: Value) -> Stage:
    """A stage of `sparse_linear` with dynamic rows that reads the float32 value x instead."""
    return replace(stage, op="fused_sparse_linear", inputs=(x,))


def inner_problem(problem: Problem) -> Problem:
    return replace(
        problem,
        op="sparse_linear",
        in_widths=(problem.in_widths[0], 1),
        in_dtypes=("int8", "float32"),
        in_steps=problem.in_steps * 2,
    )


def reference(stage: Stage, x: Tensor) -> tuple[Tensor]:
    return sparse.reference(inner(stage), *int8.dynamic(x))


def tolerance(stage: Stage, x: Tensor) -> Tolerance:
    return sparse.tolerance(inner(stage), *int8.dynamic(x))


def cost(problem: Problem) -> Cost:
    found = sparse.cost(inner_problem(problem))
    return Cost(bytes=found.bytes + 3 * problem.matrix_rows * problem.in_widths[0], flops=found.flops)


def lower(stage: Stage) -> Mapping[str, Any]:
    return sparse.lower(inner(stage))


def make_stage(k: int, n: int, layout: str, density: float, scheme: str = "dynamic", **options: Any) -> Stage:
    """A stage with random weights: scheme "dynamic" (W8A8) or "w4a8-dynamic"; options as for sparse_linear."""
    return fused(sparse.make_stage(k, n, scheme, layout, density, **options), Value("x", k))


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
    for rows, k in ((1, 35), (3, 132)):
        yield case(rows, make_stage(k, 21, "2:4", 0.5, "w4a8-dynamic", activation="relu", group_size=32), "int4")


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
    )
)
