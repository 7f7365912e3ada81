"""Position: y[m, t, :] = x[m, t, :] + table[t, :], float32, x and y [M, T, C], table [T, C] constant.

Learned or sinusoidal positions alike: the table holds the numbers. One rounding.

Streaming (attr stream = 1): inputs (x [1, C], count [1, 1]), outputs (y [1, C], count). Row number `count` of the table is
added, and the count goes up by one. A step beyond the table is refused before anything is computed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from rtaccel.core.errors import FormatError, ShapeError
from rtaccel.core.registry import Case, Cost, Operator, Tolerance, register_operator
from rtaccel.core.row_traits import Streaming, StreamWalk, TimeSpan, not_streamable
from rtaccel.core.stage import Problem, Stage, Value
from rtaccel.core.traits import Node


def is_stream(stage: Stage) -> bool:
    return bool(stage.attrs.get("stream", 0))


def lower(stage: Stage) -> Mapping[str, Any]:
    """Raises ShapeError where the table is not one row for each step."""
    table, x = stage.tensors["table"], stage.inputs[0]
    rows = len(table) if is_stream(stage) and x.steps == 1 else x.steps
    if tuple(table.shape) != (rows, x.width) or len(stage.inputs) != 1 + is_stream(stage):
        raise ShapeError(
            "position", f"a table {list(table.shape)}", f"[{rows}, {x.width}]", "Cut the table to the steps."
        )
    return {"table": table, "stream": int(is_stream(stage))}


def _row_of(table: Tensor, count: Tensor) -> Tensor:
    """Raises FormatError for a step that the table has no row for."""
    if (bad := (count < 0) | (count >= len(table)) | count.isnan()).any():
        raise FormatError(
            "position", f"a stream at step {count[bad][0].item():.0f}", f"a step of 0..{len(table) - 1}",
            "Reset the stream; nothing was computed.",
        )  # fmt: skip
    return table[count.long()]


def reference(stage: Stage, x: Tensor, *given: Tensor) -> tuple[Tensor, ...]:
    table = lower(stage)["table"]
    if not given:
        return (x + table.reshape(stage.inputs[0].shape),)
    return x + _row_of(table, given[0].reshape(-1)).reshape(x.shape), given[0] + 1


def _step(node: Node, spans: Sequence[TimeSpan], walk: StreamWalk) -> TimeSpan:
    """The row of the newest time step, by the count of steps since the reset."""
    span, y = spans[0], node.writes[0]
    if span.steps != len(node.tensors["table"]) or walk.newest(span) != span.steps - 1:
        raise not_streamable(f"{node.name}, positions of other time steps")
    walk.needs_context(f"{node.name}, a table of positions")
    count = walk.add_state(f"{y}:count", 1, 1)
    node.reads, node.writes = [node.reads[0], count], [y, count]
    node.attrs = {**node.attrs, "stream": 1}
    return span


def make_stage(t: int, c: int, stream: bool = False) -> Stage:
    table = torch.randn(t, c, generator=torch.Generator().manual_seed(t + c))
    if stream:
        inputs, outputs = (Value("x", c), Value("count", 1)), (Value("y", c), Value("count_out", 1))
        return Stage("position", "case", inputs, outputs, {"table": table}, {"stream": 1})
    return Stage("position", "case", (Value("x", c, steps=t),), (Value("y", c, steps=t),), {"table": table})


def cases() -> Iterator[Case]:
    for m, t, c in ((1, 1, 1), (3, 1, 17), (2, 7, 64), (5, 3, 131)):
        stage = make_stage(t, c)

        def make(seed: int, m: int = m, stage: Stage = stage) -> tuple[Tensor, ...]:
            return (torch.randn(m, *stage.inputs[0].shape, generator=torch.Generator().manual_seed(seed)),)

        yield Case(f"M{m}-T{t}-C{c}", stage, make)
    for m, t, c in ((1, 1, 1), (3, 5, 17), (4, 61, 131)):
        stage = make_stage(t, c, stream=True)

        def step(seed: int, m: int = m, t: int = t, stage: Stage = stage) -> tuple[Tensor, ...]:
            g = torch.Generator().manual_seed(seed)
            count = torch.randint(0, t, (m, *stage.inputs[1].shape), generator=g)
            return torch.randn(m, *stage.inputs[0].shape, generator=g), count.float()

        yield Case(f"stream-M{m}-T{t}-C{c}", stage, step)


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
        streaming=Streaming(_step),
    )
)
