"""Take: y[line, i] = x[base(line) + sum over k of index_k[line] * stride_k + step(i)]; [M, steps, width] each.

attrs["dims"], attrs["kept"]: sizes in the order of the elements of y; the first `kept` are lines. attrs["places"]: of x, and of
each index: offset and strides in elements of a dense value; that of x is where an index of 0 leads. attrs["sizes"],
attrs["strides"]: of each index. attrs["negative"]: 1 where negative indices count from the end.

Operands: x, i0, i1, ...; a constant one is a tensor of that name. x and y are float32 or int64, indices int64.
An index outside is a FormatError; nothing that the call computed is given.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor

from rtaccel.core.errors import ShapeError
from rtaccel.core.registry import Case, Cost, Operator, Tolerance, register_operator
from rtaccel.core.stage import Problem, Stage, Value
from rtaccel.kernels._common import indexed, lines
from rtaccel.kernels._common.strides import dense, elements
from rtaccel.kernels.take.streaming import STREAMING


def geometry(stage: Stage) -> tuple[list[str], dict[str, lines.Place], dict[str, tuple[int, int, str]]]:
    """(names of operands, their places, their sizes). Raises a typed error where they do not fit."""
    found, y = indexed.names(stage), stage.outputs[0]
    sizes = indexed.widths(stage, found)
    places = dict(zip(found, (tuple(p) for p in stage.attrs["places"])))
    dims = tuple(stage.attrs["dims"])
    indexed.check(stage, places, sizes, "x", sizes["x"][0])
    if prod(dims) != y.steps * y.width or len(stage.attrs["places"]) != len(found) or y.dtype != sizes["x"][2]:
        raise ShapeError("take", f"{dims} into {y.dtype}[{y.steps}, {y.width}]", f"{sizes['x'][2]}, as many elements",
                         "Correct the stage.")  # fmt: skip
    return found, places, sizes


def lower(stage: Stage) -> Mapping[str, Any]:
    _, places, sizes = geometry(stage)
    dims, kept = tuple(stage.attrs["dims"]), stage.attrs["kept"]
    own = (*dims[:kept], prod(dims[kept:]))
    return {
        **indexed.lowered(stage, places, sizes, "x"),
        **lines.tables("_y", own, kept, dense(own), stage.outputs[0].width),
    }


def reference(stage: Stage, *inputs: Tensor) -> tuple[Tensor]:
    found, places, _ = geometry(stage)
    operands = indexed.given(stage, found, inputs)
    dims, kept = stage.attrs["dims"], stage.attrs["kept"]
    start = indexed.selected(stage, operands, places)
    base = torch.from_numpy(elements(dims, places["x"])).to(start.device).reshape(prod(dims[:kept]), -1)
    at = (start[:, :, None] + base).flatten(1)
    x, m = operands["x"], inputs[0].shape[0]
    return (x.expand(m, -1).gather(1, at.expand(m, -1)).reshape(m, *stage.outputs[0].shape),)


def _case(label: str, shapes: list[tuple[int, int]], out: tuple[int, int], dtype: str = "float32", constant: int = 0,
          **attrs: Any) -> Case:  # fmt: skip
    """constant: elements of a constant x."""
    kinds = [dtype] * (not constant) + ["int64"] * len(attrs["sizes"])
    inputs = tuple(Value(f"x{i}", w, kind, steps=s) for i, ((s, w), kind) in enumerate(zip(shapes, kinds)))
    tensors = {"x": torch.randn(constant, generator=torch.Generator().manual_seed(constant))} if constant else {}
    attrs = {"negative": 0, **attrs}
    stage = Stage("take", "case", inputs, (Value("y", out[1], dtype, steps=out[0]),), tensors, attrs)

    def make(seed: int) -> tuple[Tensor, ...]:
        g = torch.Generator().manual_seed(seed)
        found = []
        for i, v in enumerate(inputs):
            k = i - (not constant)
            if k < 0:
                x = torch.randn(3, *v.shape, generator=g) * 100
                found.append(x.long() if dtype == "int64" else x)
            else:
                size = attrs["sizes"][k]
                found.append(torch.randint(-size if attrs["negative"] else 0, size, (3, *v.shape), generator=g))
        return tuple(found)

    return Case(label, stage, make)


def cases() -> Iterator[Case]:
    for h, c, k in ((1, 1, 1), (5, 3, 4), (9, 17, 3), (4, 130, 7)):
        for dtype in ("float32", "int64"):
            tag = f"{dtype}-{h}x{c}-{k}"
            yield _case(f"rows-{tag}", [(h, c), (1, k)], (k, c), dtype, dims=(k, c), kept=1, sizes=(h,), strides=(c,),
                        places=((0, 0, 1), (0, 1, 0)))  # fmt: skip
            yield _case(f"rows-flat-{tag}", [(1, h * c), (k, 1)], (1, k * c), dtype, dims=(k, c), kept=1, sizes=(h,),
                        strides=(c,), places=((0, 0, 1), (0, 1, 0)), negative=1)  # fmt: skip
            yield _case(f"elements-{tag}", [(h, c), (k, c)], (k, c), dtype, dims=(k, c), kept=2, sizes=(h,), strides=(c,),
                        places=((0, 0, 1), (0, c, 1)))  # fmt: skip
            yield _case(f"columns-{tag}", [(h, c), (1, k)], (k, h), dtype, dims=(k, h), kept=1, sizes=(c,), strides=(1,),
                        places=((0, 0, c), (0, 1, 0)))  # fmt: skip
            yield _case(f"pairs-{tag}", [(h, c), (1, k), (1, k)], (1, k), dtype, dims=(k,), kept=1, sizes=(h, c),
                        strides=(c, 1), places=((0, 0), (0, 1), (0, 1)), negative=1)  # fmt: skip
    yield _case("table", [(1, 6)], (6, 20), constant=7 * 20, dims=(6, 20), kept=1, sizes=(7,), strides=(20,),
                places=((0, 0, 1), (0, 1, 0)))  # fmt: skip
    yield _case("across-rows", [(6, 4), (1, 5)], (5, 8), dims=(5, 8), kept=1, sizes=(3,), strides=(8,),
                places=((0, 0, 1), (0, 1, 0)))  # fmt: skip


def cost(problem: Problem) -> Cost:
    return Cost(bytes=8 * problem.rows * problem.out_steps[0] * problem.out_widths[0], flops=0)


OPERATOR = register_operator(
    Operator(
        name="take",
        axes={"x": ("M", "steps", "width"), "index_k": ("M", "steps", "width"), "y": ("M", "steps", "width")},
        reference=reference,
        cases=cases,
        tolerance=lambda stage, *inputs: Tolerance(),
        cost=cost,
        lower=lower,
        packed_bytes=indexed.packed_bytes,
        by_row=False,
        streaming=STREAMING,
    )
)
