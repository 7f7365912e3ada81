"""Softmax over the columns: y[m, c] = exp(x[m, c] - max_c x) / sum_c exp(...), float32 [M, C].

y may be int8 with a static QParams: clamp(rint(y * (1 / scale)) + zero_point, -128, 127); a row that is not finite is
marked as kernels/quantize does it. The sum is taken over 64 partial sums, the quotient as a product with 1 / sum, in an
order that all instruction sets share.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from rtaccel.core.registry import Case, Cost, Operator, Tolerance, register_operator
from rtaccel.core.row_traits import ROW_BY_ROW, STREAMS_ROWS
from rtaccel.core.stage import Problem, QParams, Stage, Value
from rtaccel.core.stage_traits import Int8Flow
from rtaccel.formats.int8 import inverse_scale
from rtaccel.kernels.quantize import contract as quantize


def lower(stage: Stage) -> Mapping[str, Any]:
    quant = stage.outputs[0].quant
    if quant is None:
        return {"inv_scale": 0.0, "zero_point": 0}
    return {"inv_scale": inverse_scale(quant), "zero_point": quant.zero_point}


def output(stage: Stage, y: Tensor) -> tuple[Tensor]:
    """y float32 as the stage gives it."""
    if stage.outputs[0].quant is None:
        return (y,)
    low = lower(stage)
    return (quantize.static(y, low["inv_scale"], low["zero_point"]),)


def reference(stage: Stage, x: Tensor) -> tuple[Tensor]:
    return output(stage, torch.softmax(x.double(), -1).float())


def tolerance(stage: Stage, x: Tensor) -> Tolerance:
    """exp within 2 units, a sum of C terms, two roundings of the quotient; y <= 1. The argument x - max rounds once,
    which moves exp by |x - max| * eps relative, and exp(-d) * d <= 0.37. int8 within a step."""
    eps = torch.finfo(torch.float32).eps
    return Tolerance(atol=eps * (5 + x.shape[1]) * torch.softmax(x.double(), -1) + eps, steps=1)


def make_stage(c: int, quant: QParams | None = None) -> Stage:
    y = Value("y", c, "int8" if quant else "float32", quant)
    return Stage("softmax", "case", (Value("x", c),), (y,))


def cases() -> Iterator[Case]:
    for rows, c in ((1, 1), (1, 5), (3, 17), (2, 64), (5, 131), (1, 1030)):
        for quant in (None, QParams(1 / 255, -128), QParams(0.009, 3)):

            def make(seed: int, rows: int = rows, c: int = c) -> tuple[Tensor, ...]:
                return (torch.randn(rows, c, generator=torch.Generator().manual_seed(seed)) * 6,)

            label = f"M{rows}-C{c}{'' if quant is None else f'-int8-{quant.zero_point}'}"
            yield Case(label, make_stage(c, quant), make)


def cost(problem: Problem) -> Cost:
    elements = problem.matrix_rows * problem.out_widths[0]
    return Cost(bytes=(5 if problem.out_dtypes[0] == "int8" else 8) * elements, flops=4 * elements)


OPERATOR = register_operator(
    Operator(
        name="softmax",
        axes={"x": ("M", "C"), "y": ("M", "C")},
        reference=reference,
        cases=cases,
        tolerance=tolerance,
        cost=cost,
        lower=lower,
        make_stage=make_stage,
        int8=Int8Flow(writes=True),
        rows_needed=ROW_BY_ROW,
        streaming=STREAMS_ROWS,
    )
)
