"""Table row: y[m, :] = table[count[m], :], float32, and the count goes on by one: what differs from step to step of a stream.

table [T, C] constant; count [M, 1] float32, a state, whole numbers below 2^23; y [M, C]. A step beyond the table is refused
before anything is computed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from rtaccel.core.errors import FormatError, ShapeError
from rtaccel.core.registry import Case, Cost, Operator, Tolerance, register_operator
from rtaccel.core.stage import Problem, Stage, Value
from rtaccel.core.traits import Role


def lower(stage: Stage) -> Mapping[str, Any]:
    """Raises ShapeError where the table has other columns than the result."""
    table, y = stage.tensors["table"], stage.outputs[0]
    if table.dim() != 2 or table.shape[1] != y.width or y.steps != 1:
        raise ShapeError("table_row", f"a table {list(table.shape)}", f"[T, {y.width}]", "Correct the stage.")
    return {"table": table}


def reference(stage: Stage, count: Tensor) -> tuple[Tensor, ...]:
    """Raises FormatError for a step that the table has no row for."""
    table, at = lower(stage)["table"], count.reshape(-1)
    if (bad := (at < 0) | (at >= len(table)) | at.isnan()).any():
        raise FormatError(
            "table_row", f"a stream at step {at[bad][0].item():.0f}", f"a step of 0..{len(table) - 1}",
            "Reset the stream; nothing was computed.",
        )  # fmt: skip
    return table[at.long()], count + 1


def make_stage(rows: int, columns: int) -> Stage:
    table = torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows + columns))
    outputs = (Value("y", columns), Value("count_out", 1))
    return Stage("table_row", "case", (Value("count", 1),), outputs, {"table": table})


def cases() -> Iterator[Case]:
    for m, rows, columns in ((1, 1, 1), (3, 7, 17), (5, 61, 130)):
        stage = make_stage(rows, columns)

        def make(seed: int, m: int = m, rows: int = rows) -> tuple[Tensor, ...]:
            return (torch.randint(0, rows, (m, 1), generator=torch.Generator().manual_seed(seed)).float(),)

        yield Case(f"M{m}-T{rows}-C{columns}", stage, make)


def cost(problem: Problem) -> Cost:
    return Cost(bytes=8 * problem.rows * problem.out_widths[0], flops=0)


OPERATOR = register_operator(
    Operator(
        name="table_row",
        axes={"count": ("M", "1"), "table": ("T", "C"), "y": ("M", "C")},
        reference=reference,
        cases=cases,
        tolerance=lambda stage, *inputs: Tolerance(),
        cost=cost,
        lower=lower,
        by_row=False,
        make_stage=make_stage,
        role=Role.TABLE,
    )
)
