"""Rearrange: a value in another order, or a part of it. float32 or int64, [M, steps, width] to [M, out steps, out width].

attrs, one of
    rows   [out steps]: y[m, i, :] = x[m, rows[i], :]; the widths are equal
    index  [out steps * out width]: y[m].flatten()[e] = x[m].flatten()[index[e]]
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rtaccel.core.errors import ShapeError
from rtaccel.core.registry import Case, Cost, Operator, Tolerance, register_operator
from rtaccel.core.stage import Problem, Stage, Value
from rtaccel.core.stage_traits import ByElements, Int8Flow
from rtaccel.core.traits import Role
from rtaccel.kernels._common.geometry import as_rows
from rtaccel.kernels.rearrange import convert


def lower(stage: Stage) -> Mapping[str, Any]:
    x, y = stage.inputs[0], stage.outputs[0]
    by_row = "rows" in stage.attrs
    table = stage.attrs["rows" if by_row else "index"]
    limit, wanted = (x.steps, y.steps) if by_row else (x.steps * x.width, y.steps * y.width)
    outside = len(table) > 0 and not (min(table) >= 0 and max(table) < limit)  # tables of images have millions
    if len(table) != wanted or (by_row and x.width != y.width) or outside:
        raise ShapeError("rearrange", f"{len(table)} indices", f"{wanted} of 0..{limit - 1}", "Check the table.")
    return {"by_row": int(by_row), "table": tuple(table)}


def _transposition(steps: int, width: int) -> tuple[int, ...]:
    return tuple(s * width + w for w in range(width) for s in range(steps))


def reference(stage: Stage, x: Tensor) -> tuple[Tensor]:
    low = lower(stage)
    y, m = stage.outputs[0], x.shape[0]
    table = torch.tensor(low["table"], device=x.device)
    if low["by_row"]:
        return (as_rows(x, y.width)[:, table].reshape(m, *y.shape),)
    return (x.flatten(1)[:, table].reshape(m, *y.shape),)


def _case(label: str, x: Value, y: Value, samples: int, **attrs: tuple[int, ...]) -> Case:
    def make(seed: int) -> tuple[Tensor, ...]:
        made = torch.randn(samples, *x.shape, generator=torch.Generator().manual_seed(seed))
        return (made if x.dtype == "float32" else (made * 1e9).long(),)

    return Case(label, Stage("rearrange", "case", (x,), (y,), attrs=attrs), make)


def cases() -> Iterator[Case]:
    yield _case("last-row", Value("x", 7, steps=5), Value("y", 7), 3, rows=(4,))
    yield _case("rows", Value("x", 19, steps=5), Value("y", 19, steps=3), 2, rows=(4, 0, 4))
    for steps, width in ((3, 5), (16, 16), (33, 48), (10, 130), (48, 18)):
        table = _transposition(steps, width)
        yield _case(
            f"turn-{steps}x{width}", Value("x", width, steps=steps), Value("y", steps, steps=width), 2, index=table
        )
    whole = Value("x", 5, "int64", steps=6), Value("y", 5, "int64", steps=2)
    yield _case("rows-int64", *whole, 3, rows=(5, 1))
    yield _case("elements-int64", *whole, 3, index=(29, 3, 7, 7, 0, 11, 13, 2, 1, 28))
    turned = Value("x", 5, "int64", steps=6), Value("y", 6, "int64", steps=5)
    yield _case("turn-int64", *turned, 2, index=_transposition(6, 5))
    table = _transposition(80, 4)  # an image of 8 x 10 as its channels, in rows of its own
    yield _case("turn-into-other-rows", Value("x", 4, steps=80), Value("y", 10, steps=32), 2, index=table)
    yield _case(
        "turn-into-whole-lines", Value("x", 7, steps=96), Value("y", 32, steps=21), 3, index=_transposition(96, 7)
    )
    table = _transposition(9, 48)  # channels of an image of 3 x 16, which lie side by side for each of its positions
    yield _case("turn-from-other-rows", Value("x", 16, steps=27), Value("y", 9, steps=48), 3, index=table)
    yield _case("turn-from-a-row", Value("x", 432), Value("y", 9, steps=48), 2, index=table)
    yield _case("turn-from-odd-rows", Value("x", 8, steps=54), Value("y", 9, steps=48), 2, index=table)
    yield _case("turn-three", Value("x", 67, steps=3), Value("y", 3, steps=67), 2, index=_transposition(3, 67))
    for c in (2, 3, 4):
        for count in (1, 6, 71):
            planes = Value("x", count, steps=c), Value("y", c * count)
            yield _case(
                f"weave-{c}x{count}", Value("x", c * count), Value("y", c * count), 2, index=_transposition(c, count)
            )
            yield _case(f"weave-rows-{c}x{count}", *planes, 3, index=_transposition(c, count))
            yield _case(
                f"part-{c}x{count}",
                Value("x", c * count),
                Value("y", count, steps=c),
                2,
                index=_transposition(count, c),
            )
    image = torch.arange(7 * 9).reshape(1, 7, 9).float()
    around = torch.nn.functional.pad(image, (3, 2, 1, 4), mode="reflect").flatten().long().tolist()
    for x, y in ((Value("x", 63), Value("y", 14, steps=12)), (Value("x", 9, steps=7), Value("y", 168))):
        yield _case("runs", x, y, 2, index=tuple(around))
    back = tuple(r * 21 + c for r in range(4) for c in range(20, -1, -1))
    for x, y in ((Value("x", 21, steps=4), Value("y", 21, steps=4)), (Value("x", 84), Value("y", 28, steps=3))):
        yield _case("back-to-front", x, y, 2, index=back)
    yield _case("back-to-front-int64", Value("x", 84, "int64"), Value("y", 84, "int64"), 2, index=back)
    yield _case("runs-int64", Value("x", 63, "int64"), Value("y", 14, "int64", steps=12), 2, index=tuple(around))
    yield _case("run", Value("x", 700), Value("y", 601), 2, index=tuple(range(33, 634)))
    yield _case("run-of-rows", Value("x", 16, steps=40), Value("y", 16, steps=22), 2, rows=tuple(range(5, 27)))
    g = torch.Generator().manual_seed(0)
    table = tuple(torch.randint(0, 77, (33,), generator=g).tolist())
    yield _case("elements", Value("x", 11, steps=7), Value("y", 3, steps=11), 4, index=table)
    yield _case("flat", Value("x", 77), Value("y", 33), 4, index=table)


def cost(problem: Problem) -> Cost:
    elements = problem.matrix_rows * problem.out_widths[0]
    return Cost(bytes=8 * elements, flops=0)


class CopyPlanes(ByElements):
    """A copy of a few channels reads planes, gives planes, or both: by another table."""

    MAX_CHANNELS = 8

    def read(self, stage: Stage) -> tuple[int, int, int] | None:
        x = stage.inputs[0]
        return (x.width, x.steps, 1) if 1 < x.width <= self.MAX_CHANNELS and x.steps > 1 else None

    def written(self, stage: Stage) -> tuple[int, int, int] | None:
        y = stage.outputs[0]
        return (y.width, y.steps, 1) if y.width <= self.MAX_CHANNELS and y.steps > 1 else None

    def over(self, stage: Stage, x: Value | None, y: Value | None) -> Stage:
        (rows,), (out,) = stage.inputs, stage.outputs
        index = np.asarray(stage.attrs["index"] if "index" in stage.attrs else stage.attrs["rows"])
        if "rows" in stage.attrs:
            index = (index[:, None] * rows.width + np.arange(rows.width)).reshape(-1)
        if x is not None:
            index = index % rows.width * rows.steps + index // rows.width
        if y is not None:
            index = index.reshape(out.steps, out.width).T.reshape(-1)
        attrs = {name: value for name, value in stage.attrs.items() if name not in ("rows", "index")}
        return replace(super().over(stage, x, y), attrs={**attrs, "index": tuple(index.tolist())})


OPERATOR = register_operator(
    Operator(
        name="rearrange",
        axes={"x": ("M", "steps", "width"), "y": ("M", "steps", "width")},
        reference=reference,
        cases=cases,
        tolerance=lambda stage, *inputs: Tolerance(),
        cost=cost,
        lower=lower,
        by_row=False,
        role=Role.GATHER,
        int8=Int8Flow(keeps_nan=True),
        planes=CopyPlanes(),
        rows_needed=convert.ROWS,
        streaming=convert.STREAMING,
    )
)
