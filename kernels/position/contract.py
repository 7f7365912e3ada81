"""Position: y[m, t, :] = x[m, t, :] + table[t, :], float32, x and y [M, T, C], table [T, C] constant.

Learned or sinusoidal positions alike: the table holds the numbers. One rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from rtaccel.core.errors import ShapeError
from rtaccel.core.registry import Case, Cost, Operator, Tolerance, register_operator
from rtaccel.core.stage import Problem, Stage, Value


def lower(stage: Stage) -> Mapping[str, Any]:
    """Raises ShapeError where the table is not one row for each step."""
    table, x = stage.tensors["table"], stage.inputs[0]
    if tuple(table.shape) != (x.steps, x.width):
        raise ShapeError(
            "position", f"a table {list(table.shape)}", f"[{x.steps}, {x.width}]", "Cut the table to the steps."
        )
    return {"table": table}


def reference(stage: Stage, x: Tensor) -> tuple[Tensor]:
    return (x + lower(stage)["table"].reshape(stage.inputs[0].shape),)


def make_stage(t: int, c: int) -> Stage:
    table = torch.randn(t, c, generator=torch.Generator().manual_seed(t + c))
    return Stage("position", "case", (Value("x", c, steps=t),), (Value("y", c, steps=t),), {"table": table})


def cases() -> Iterator[Case]:
    for m, t, c in ((1, 1, 1), (3, 1, 17), (2, 7, 64), (5, 3, 131)):
        stage = make_stage(t, c)

        def make(seed: int, m: int = m, stage: Stage = stage) -> tuple[Tensor, ...]:
            return (torch.randn(m, *stage.inputs[0].shape, generator=torch.Generator().manual_seed(seed)),)

        yield Case(f"M{m}-T{t}-C{c}", stage, make)


def cost(problem: Problem) -> Cost:
    elements = problem.out_steps[0] * problem.out_widths[0]
    return Cost(bytes=4 * elements * (2 * problem.rows + 1), flops=problem.rows * elements)


OPERATOR = register_operator(
    Operator(
        name="position",
        axes={"x": ("M", "T", "C"), "table": ("T", "C"), "y": ("M", "T", "C")},
        reference=reference,
        cases=cases,
        tolerance=lambda stage, *inputs: Tolerance(),
        cost=cost,
        lower=lower,
        by_row=False,
        make_stage=make_stage,
    )
)
