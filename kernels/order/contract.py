"""Order: the first k elements of each line of x in order, and where they are; [M, steps, width] each.

attrs["descending"]: 1 for the largest first. attrs["nan_first"]: 1 where a NaN comes before all others, as torch's min has it;
without it a NaN is the largest. attrs["k"]. attrs["gives"]: "values", "indices" or "values,indices", the outputs:
values as x, indices int64. attrs["dims"]: sizes of the dimensions that lines differ in, then of the one that they run along.
attrs["places"]: of x over dims, then of each output over dims with k as the last: offset and strides in elements of a dense
value. Outputs lie alike, so they share a place where there is one.

Equal elements stay in their order, as in torch's stable sort. x is float32 or int64.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor

from rtaccel.core.errors import FormatError, ShapeError
from rtaccel.core.registry import Case, Cost, Operator, Tolerance, register_operator
from rtaccel.core.stage import Problem, Stage, Value
from rtaccel.kernels._common import lines
from rtaccel.kernels._common.strides import dense
from rtaccel.kernels.order.streaming import STREAMING

GIVES = {"values": 1, "indices": 1, "values,indices": 2}


def _geometry(stage: Stage) -> tuple[tuple[int, ...], tuple[int, ...], lines.Place, lines.Place]:
    """(dims of x, dims of outputs, place of x, place of outputs). Raises a typed error where they do not fit."""
    attrs, x = stage.attrs, stage.inputs[0]
    if GIVES.get(attrs["gives"]) != len(stage.outputs) or x.dtype not in ("float32", "int64"):
        raise FormatError("order", f"gives {attrs['gives']!r} of {x.dtype}", ", ".join(GIVES), "Name one of these.")
    dims = tuple(attrs["dims"])
    out = (*dims[:-1], attrs["k"])
    place, target = (tuple(p) for p in attrs["places"])
    if not 1 <= attrs["k"] <= dims[-1]:
        raise ShapeError("order", f"k {attrs['k']}", f"1..{dims[-1]}", "Correct the stage.")
    lines.check_place("order", dims, place, x.steps * x.width)
    for name, y in zip(attrs["gives"].split(","), stage.outputs):
        lines.check_place("order", out, target, y.steps * y.width)
        if prod(out) != y.steps * y.width or y.dtype != ("int64" if name == "indices" else x.dtype):
            raise ShapeError("order", f"{y.dtype}[{y.steps * y.width}]", f"{prod(out)} {name}", "Correct the stage.")
    return dims, out, place, target


def lower(stage: Stage) -> Mapping[str, Any]:
    dims, out, place, target = _geometry(stage)
    kept = len(dims) - 1
    order = "down" if stage.attrs["descending"] else "nan_up" if stage.attrs["nan_first"] else "up"
    low: dict[str, Any] = {
        "order": order, "k": stage.attrs["k"], "gives": stage.attrs["gives"],
        "count": prod(dims[:-1]), "along": dims[-1],
        **lines.tables("0", dims, kept, place, stage.inputs[0].width),
    }  # fmt: skip
    for i, y in enumerate(stage.outputs):
        low |= lines.tables(str(i + 1), out, kept, target, y.width)
    return low


def reference(stage: Stage, x: Tensor) -> tuple[Tensor, ...]:
    dims, out, place, target = _geometry(stage)
    own = lines.read(x, dims, len(dims) - 1, place)
    values, indices = own.sort(dim=-1, descending=bool(stage.attrs["descending"]), stable=True)
    if stage.attrs["nan_first"]:
        first = values.isnan().sort(dim=-1, descending=True, stable=True).indices
        values, indices = values.gather(-1, first), indices.gather(-1, first)
    k, found = stage.attrs["k"], {"values": values, "indices": indices}
    return tuple(
        lines.written(found[name][..., :k], out, target, y.shape)
        for name, y in zip(stage.attrs["gives"].split(","), stage.outputs)
    )


def make_stage(shape: tuple[int, int], k: int, descending: int = 1, gives: str = "values,indices", dtype: str = "float32",
               dims: tuple[int, ...] = (), place: lines.Place = (), nan_first: int = 0) -> Stage:  # fmt: skip
    """dims, place: the rows of x where they are left out."""
    dims, place = dims or shape, place or dense(shape)
    x = Value("x", shape[1], dtype, steps=shape[0])
    lines_count = prod(dims[:-1])
    outputs = tuple(
        Value(name, k, "int64" if name == "indices" else dtype, steps=lines_count) for name in gives.split(",")
    )
    attrs = {
        "descending": descending,
        "nan_first": nan_first,
        "k": k,
        "gives": gives,
        "dims": dims,
        "places": (place, dense((*dims[:-1], k))),
    }
    return Stage("order", "case", (x,), outputs, {}, attrs)


def _case(label: str, shape: tuple[int, int], dims: tuple[int, ...], place: lines.Place, k: int, descending: int,
          gives: str = "values,indices", dtype: str = "float32", nan_first: int = 0, whole: bool = False) -> Case:  # fmt: skip
    """whole: without a NaN."""
    stage = make_stage(shape, k, descending, gives, dtype, dims, place, nan_first)
    x = stage.inputs[0]

    def make(seed: int) -> tuple[Tensor, ...]:
        g = torch.Generator().manual_seed(seed)
        if dtype == "int64":
            return (torch.randint(-9, 9, (3, *x.shape), generator=g) << 58,)
        values = torch.randint(-9, 9, (3, *x.shape), generator=g) / 2.0  # many are equal
        rare = torch.rand(values.shape, generator=g)
        if not whole:
            values = torch.where(rare < 0.02, torch.tensor(float("nan")), values)
        values = torch.where(rare > 0.98, torch.tensor(float("inf")) * values.sign(), values)
        return (torch.where((rare > 0.4) & (rare < 0.5), -0.0, values),)

    return Case(label, stage, make)


def cases() -> Iterator[Case]:
    for h, c in ((1, 1), (5, 3), (3, 16), (4, 67), (2, 130), (1, 700)):
        for dtype in ("float32", "int64"):
            for descending in (0, 1):
                for k in sorted({1, min(5, c), min(40, c), c}):
                    tag = f"{dtype}-{'down' if descending else 'up'}-{h}x{c}-k{k}"
                    yield _case(f"rows-{tag}", (h, c), (h, c), (0, c, 1), k, descending, dtype=dtype)
                yield _case(
                    f"arg-{dtype}-{descending}-{h}x{c}", (h, c), (h, c), (0, c, 1), 1, descending, "indices", dtype
                )
                yield _case(
                    f"columns-{dtype}-{descending}-{h}x{c}", (c, h), (h, c), (0, 1, h), 1, descending, "indices", dtype
                )
    for h, c in ((3, 16), (5, 67), (2, 130), (3, 700), (1, 64)):
        for descending in (0, 1):
            tag = f"whole-{'down' if descending else 'up'}-{h}x{c}"
            yield _case(f"rows-{tag}", (h, c), (h, c), (0, c, 1), 1, descending, whole=True)
            yield _case(f"columns-{tag}", (h, c), (c, h), (0, 1, c), 1, descending, whole=True)
    yield _case("columns", (30, 7), (7, 30), (0, 1, 7), 4, 1)
    for k in (1, 5, 50):
        yield _case(f"nan-first-{k}", (9, 60), (9, 60), (0, 60, 1), k, 0, nan_first=1)
    yield _case("values", (6, 20), (5, 4, 6), (0, 24, 1, 4), 6, 0, "values")


def cost(problem: Problem) -> Cost:
    read = problem.rows * problem.in_steps[0] * problem.in_widths[0]
    size, k = {"float32": 4, "int64": 8}, problem.attrs["k"]
    written = sum(size[d] * s * w for d, s, w in zip(problem.out_dtypes, problem.out_steps, problem.out_widths))
    return Cost(bytes=size[problem.in_dtypes[0]] * read + problem.rows * written, flops=read * max(1, k.bit_length()))


OPERATOR = register_operator(
    Operator(
        name="order",
        axes={"x": ("M", "steps", "width"), "values": ("M", "steps", "width"), "indices": ("M", "steps", "width")},
        reference=reference,
        cases=cases,
        tolerance=lambda stage, *inputs: Tolerance(),
        cost=cost,
        lower=lower,
        packed_bytes=lambda stage: lines.table_bytes(stage.attrs["dims"], 3),
        by_row=False,
        streaming=STREAMING,
    )
)
