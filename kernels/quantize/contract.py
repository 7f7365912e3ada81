"""Quantize: float32 activations [M, K] to int8 [M, K].

static, one scale and zero point per tensor (the output value carries them):
    q = clamp(rint(x * inv_scale) + zero_point, -128, 127)          inv_scale = float32(1 / scale)
dynamic, one scale per row and zero point 0, with a second output row_scale [M, 1]:
    row_scale = max_k |x| / 127,   q = clamp(rint(x * (127 / max)), -127, 127)
    A row below 2^-100 everywhere becomes q = 0 with row_scale = 1.

A row that holds a NaN or an infinity has no meaning in int8. dynamic: its row_scale is NaN (and q is 0),
so every result of that row is NaN. static: q is 0 there, and the plan marks the row, so that every
float output of the plan is NaN in that row. Other rows are not touched in either case.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from rtaccel.core.registry import Case, Cost, Operator, Tolerance, register_operator
from rtaccel.core.stage import Problem, QParams, Stage, Value
from rtaccel.core.stage_traits import EachElement
from rtaccel.core.traits import Role
from rtaccel.formats.int8 import TINY as TINY
from rtaccel.formats.int8 import dynamic as dynamic
from rtaccel.formats.int8 import inverse_scale, to_int8
from rtaccel.kernels.quantize.convert import make_int8


def lower(stage: Stage) -> Mapping[str, Any]:
    quant = stage.outputs[0].quant
    if quant is None:
        return {"dynamic": 1, "inv_scale": 0.0, "zero_point": 0}
    return {"dynamic": 0, "inv_scale": inverse_scale(quant), "zero_point": quant.zero_point}


def static(x: Tensor, inv_scale: float, zero_point: int) -> Tensor:
    finite = torch.isfinite(x).all(-1, keepdim=True)
    return to_int8(torch.where(finite, x, torch.zeros_like(x)), inv_scale, zero_point).masked_fill(~finite, 0)


def reference(stage: Stage, x: Tensor) -> tuple[Tensor, ...]:
    low = lower(stage)
    return dynamic(x) if low["dynamic"] else (static(x, low["inv_scale"], low["zero_point"]),)


def make_stage(k: int, quant: QParams | None) -> Stage:
    q = Value("q", k, "int8", quant)
    return Stage("quantize", "case", (Value("x", k),), (q,) if quant else (q, Value("s", 1)))


def stage_of_numbers(k: int, scale: float | None = None, zero_point: int = 0) -> Stage:
    """`make_stage` from plain numbers; without a scale the rows have one each."""
    return make_stage(k, None if scale is None else QParams(scale, zero_point))


def cases() -> Iterator[Case]:
    for rows, k in ((1, 1), (1, 16), (3, 17), (2, 64), (5, 131), (1, 640)):
        for label, quant in (("signed", QParams(0.021, 3)), ("unsigned", QParams(0.011, -128)), ("dynamic", None)):

            def make(seed: int, rows: int = rows, k: int = k) -> tuple[Tensor, ...]:
                return (torch.randn(rows, k, generator=torch.Generator().manual_seed(seed)) * 2,)

            yield Case(f"M{rows}-K{k}-{label}", make_stage(k, quant), make)

    def special(seed: int) -> tuple[Tensor, ...]:
        x = torch.randn(6, 19, generator=torch.Generator().manual_seed(seed))
        x[0] = 0.0
        x[1, 18], x[2, 0], x[3, 7] = float("nan"), float("inf"), -1e38
        x[4] = 1e-42
        return (x,)

    for label, quant in (("special", QParams(0.021, 3)), ("special-dynamic", None)):
        yield Case(f"M6-K19-{label}", make_stage(19, quant), special)


def cost(problem: Problem) -> Cost:
    m, k = problem.matrix_rows, problem.in_widths[0]
    return Cost(bytes=5 * m * k, flops=2 * m * k)


class StaticPlanes(EachElement):
    """With one scale for all; a dynamic one is that of a row."""

    def read(self, stage: Stage) -> tuple[int, int, int] | None:
        return None if stage.outputs[0].quant is None else super().read(stage)


OPERATOR = register_operator(
    Operator(
        name="quantize",
        axes={"x": ("M", "K"), "q": ("M", "K"), "row_scale": ("M", "1")},
        reference=reference,
        cases=cases,
        tolerance=lambda stage, *inputs: Tolerance(),
        cost=cost,
        lower=lower,
        make_stage=stage_of_numbers,
        make_int8=make_int8,
        role=Role.QUANTIZE,
        planes=StaticPlanes(),
    )
)
