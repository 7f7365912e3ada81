"""Embedding: y[m, :] = weight[index[m], :], index int64 [M, 1], y float32 [M, C].

weight [V, C] float32, or int8 with `weight_scale [V]`, a scale per row: y[m, c] = float32(q) * weight_scale[row], one
rounding, so that every implementation gives the same bits.

An index outside 0..V-1 has no row: FormatError before anything is computed (a negative one too).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from rtaccel.core.errors import FormatError
from rtaccel.core.registry import Case, Cost, Operator, Tolerance, register_operator
from rtaccel.core.row_traits import STREAMS_ROWS
from rtaccel.core.stage import Problem, Stage, Value
from rtaccel.core.weight_format import WeightFormat


def lower(stage: Stage) -> Mapping[str, Any]:
    low: dict[str, Any] = {"weight": stage.tensors["weight"]}
    if "weight_scale" in stage.tensors:
        low["weight_scale"] = stage.tensors["weight_scale"]
    return low


def require_rows(index: Tensor, rows: int) -> None:
    """Raises FormatError where an index is outside 0..rows-1, naming the first."""
    bad = (index < 0) | (index >= rows)
    if bad.any():
        raise FormatError(
            "embedding",
            f"index {index[bad][0].item()}",
            f"indices in 0..{rows - 1}",
            "Nothing was computed; mend the indices or enlarge the table.",
        )


def look_up(stage: Stage, index: Tensor) -> Tensor:
    low = lower(stage)
    rows = index.reshape(-1)
    y = low["weight"][rows]
    return y.float() * low["weight_scale"][rows, None] if "weight_scale" in low else y


def reference(stage: Stage, index: Tensor) -> tuple[Tensor]:
    require_rows(index, stage.tensors["weight"].shape[0])
    return (look_up(stage, index),)


def make_stage(rows: int, c: int, dtype: str = "float32") -> Stage:
    g = torch.Generator().manual_seed(rows + c)
    tensors = {"weight": torch.randn(rows, c, generator=g)}
    if dtype == "int8":
        tensors["weight"] = torch.randint(-127, 128, (rows, c), generator=g, dtype=torch.int8)
        tensors["weight_scale"] = torch.rand(rows, generator=g) + 0.01
    return Stage("embedding", "case", (Value("i", 1, "int64"),), (Value("y", c),), tensors)


def cases() -> Iterator[Case]:
    for m, rows, c in ((1, 1, 1), (3, 5, 17), (2, 300, 64), (7, 11, 131)):
        for dtype in ("float32", "int8"):

            def make(seed: int, m: int = m, rows: int = rows) -> tuple[Tensor, ...]:
                return (torch.randint(0, rows, (m, 1), generator=torch.Generator().manual_seed(seed)),)

            yield Case(f"M{m}-V{rows}-C{c}-{dtype}", make_stage(rows, c, dtype), make)


def cost(problem: Problem) -> Cost:
    m, c = problem.matrix_rows, problem.out_widths[0]
    return Cost(bytes=m * (8 + c * (5 if problem.weight_format is WeightFormat.INT8 else 8)), flops=m * c)


OPERATOR = register_operator(
    Operator(
        name="embedding",
        axes={"index": ("M", "1"), "weight": ("V", "C"), "weight_scale": ("V",), "y": ("M", "C")},
        reference=reference,
        cases=cases,
        tolerance=lambda stage, *inputs: Tolerance(),
        cost=cost,
        lower=lower,
        make_stage=make_stage,
        streaming=STREAMS_ROWS,
    )
)
