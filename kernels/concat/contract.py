"""Concat: columns of several values side by side. float32, x_i [M, C_i] to y [M, sum C_i]."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from rtaccel.core.registry import Case, Cost, Operator, Tolerance, register_operator
from rtaccel.core.row_traits import STREAMS_ROWS
from rtaccel.core.stage import Problem, Stage, Value


def lower(stage: Stage) -> Mapping[str, Any]:
    return {}


def reference(stage: Stage, *parts: Tensor) -> tuple[Tensor]:
    return (torch.cat(parts, -1),)


def cases() -> Iterator[Case]:
    for rows, widths in ((1, (1, 1)), (3, (7, 16, 2)), (2, (64, 65)), (3, (0, 2))):
        inputs = tuple(Value(f"x{i}", w) for i, w in enumerate(widths))

        def make(seed: int, rows: int = rows, widths: tuple[int, ...] = widths) -> tuple[Tensor, ...]:
            g = torch.Generator().manual_seed(seed)
            return tuple(torch.randn(rows, w, generator=g) for w in widths)

        label = "M{}-{}".format(rows, "+".join(map(str, widths)))
        yield Case(label, Stage("concat", "case", inputs, (Value("y", sum(widths)),)), make)


def cost(problem: Problem) -> Cost:
    return Cost(bytes=8 * problem.matrix_rows * problem.out_widths[0], flops=0)


OPERATOR = register_operator(
    Operator(
        name="concat",
        axes={"x_i": ("M", "C_i"), "y": ("M", "C")},
        reference=reference,
        cases=cases,
        tolerance=lambda stage, *inputs: Tolerance(),
        cost=cost,
        lower=lower,
        streaming=STREAMS_ROWS,
    )
)
