"""Scan: y[line, i] = join of x[line, 0..i], or the join of the whole line alone; [M, steps, width].

attrs["kind"]: "sum", "prod", "max", "min" or "logsumexp". attrs["last"]: 1 where only the join of the whole line is given.
attrs["dims"]: sizes of the dimensions that lines differ in, then of the one that they run along. attrs["places"]: of x, and
of y (without the last dimension where `last` is 1): offset and strides in elements of a dense value.

x and y are both float32, or both int64, which wraps around; "logsumexp" takes float32. float32 is joined in float64, one element
after the other, and each result is rounded. From a NaN on, every result of a line is NaN.
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

KINDS = ("sum", "prod", "max", "min", "logsumexp")


def _geometry(stage: Stage) -> tuple[tuple[int, ...], tuple[int, ...], lines.Place, lines.Place]:
    """(dims of x, dims of y, place of x, place of y). Raises a typed error where they do not fit."""
    kind, x, y = stage.attrs["kind"], stage.inputs[0], stage.outputs[0]
    if kind not in KINDS or x.dtype != y.dtype or (kind == "logsumexp" and x.dtype != "float32"):
        raise FormatError("scan", f"kind {kind!r} of {x.dtype} to {y.dtype}", f"one of {', '.join(KINDS)}, one dtype",
                          "Name one of these.")  # fmt: skip
    dims = tuple(stage.attrs["dims"])
    out = (*dims[:-1], 1) if stage.attrs["last"] else dims
    place, target = (tuple(p) for p in stage.attrs["places"])
    target = (*target, 0) if stage.attrs["last"] else target
    lines.check_place("scan", dims, place, x.steps * x.width)
    lines.check_place("scan", out, target, y.steps * y.width)
    if prod(out) != y.steps * y.width:
        raise ShapeError("scan", f"{out}", f"{y.steps * y.width} elements", "Correct the stage.")
    return dims, out, place, target


def lower(stage: Stage) -> Mapping[str, Any]:
    dims, out, place, target = _geometry(stage)
    kept = len(dims) - 1
    return {
        "kind": stage.attrs["kind"], "last": stage.attrs["last"], "count": prod(dims[:-1]), "along": dims[-1],
        **lines.tables("0", dims, kept, place, stage.inputs[0].width),
        **lines.tables("1", out, kept, target, stage.outputs[0].width),
    }  # fmt: skip


def joined(kind: str, x: Tensor) -> Tensor:
    """Along the last dimension: float32 in float64."""
    wide = x.double() if x.is_floating_point() else x
    if kind == "sum":
        found = wide.cumsum(-1)
    elif kind == "prod":
        found = wide.cumprod(-1)
    elif kind == "logsumexp":
        found = wide.logcumsumexp(-1)
    else:
        found = (wide.cummax(-1) if kind == "max" else wide.cummin(-1)).values
    return found.to(x.dtype)


def reference(stage: Stage, x: Tensor) -> tuple[Tensor]:
    dims, out, place, target = _geometry(stage)
    y = joined(stage.attrs["kind"], lines.read(x, dims, len(dims) - 1, place))
    y = y[..., -1:] if stage.attrs["last"] else y
    return (lines.written(y, out, target, stage.outputs[0].shape),)


def tolerance(stage: Stage, x: Tensor) -> Tolerance:
    """A rounding to float32, and n of float64 of at most the sum of sizes. Extremes and whole numbers are exact. A logarithm of a
    sum may lose the digits of float64 that its sum has before it: the errors of exp and log1p in float64 add up."""
    kind = stage.attrs["kind"]
    if x.dtype == torch.int64 or kind in ("max", "min"):
        return Tolerance()
    dims, out, place, target = _geometry(stage)
    parts = lines.read(x, dims, len(dims) - 1, place).double()
    n, eps, fine = dims[-1], torch.finfo(torch.float32).eps, torch.finfo(torch.float64).eps
    exact = joined(kind, parts).nan_to_num(0.0, 0.0, 0.0).abs()
    size = exact if kind != "sum" else parts.nan_to_num(0.0, 0.0, 0.0).abs().cumsum(-1)
    bound = eps * exact + 4 * n * fine * (size + 1) + 1e-45
    bound = bound[..., -1:] if stage.attrs["last"] else bound
    return Tolerance(atol=lines.written(bound, out, target, stage.outputs[0].shape))


def make_stage(kind: str, shape: tuple[int, int], last: int = 0, dtype: str = "float32", dims: tuple[int, ...] = (),
               place: lines.Place = ()) -> Stage:  # fmt: skip
    """dims, place: the rows of x where they are left out."""
    dims, place = dims or shape, place or dense(shape)
    elements = prod(dims[:-1] if last else dims)
    width = 1 if last else shape[1]
    x, y = Value("x", shape[1], dtype, steps=shape[0]), Value("y", width, dtype, steps=elements // width)
    target = dense(dims[:-1]) if last else place
    attrs = {"kind": kind, "last": last, "dims": dims, "places": (place, target)}
    return Stage("scan", "case", (x,), (y,), {}, attrs)


def _case(label: str, kind: str, shape: tuple[int, int], dims: tuple[int, ...], place: lines.Place, last: int = 0,
          dtype: str = "float32") -> Case:  # fmt: skip
    stage = make_stage(kind, shape, last, dtype, dims, place)
    x = stage.inputs[0]

    def make(seed: int) -> tuple[Tensor, ...]:
        g = torch.Generator().manual_seed(seed)
        if dtype == "int64":
            return (torch.randint(-50, 50, (3, *x.shape), generator=g),)
        values = torch.randn(3, *x.shape, generator=g) * (0.3 if kind == "prod" else 2.0) + (kind == "prod")
        rare = torch.rand(values.shape, generator=g)
        values = torch.where(rare < 0.004, torch.tensor(float("nan")), values)
        return (torch.where(rare > 0.996, torch.tensor(float("inf")) * values.sign(), values),)

    return Case(label, stage, make)


def cases() -> Iterator[Case]:
    for kind in KINDS:
        for dtype in ("float32",) if kind == "logsumexp" else ("float32", "int64"):
            for h, c in ((1, 1), (5, 3), (7, 16), (12, 67), (130, 9)):
                for last in (0, 1):
                    tag = f"{kind}-{dtype}-{h}x{c}-{'last' if last else 'all'}"
                    yield _case(f"{tag}-down", kind, (h, c), (c, h), (0, 1, c), last, dtype)
                    yield _case(f"{tag}-right", kind, (h, c), (h, c), (0, c, 1), last, dtype)
            yield _case(f"{kind}-{dtype}-middle", kind, (6, 20), (5, 6, 4), (0, 24, 1, 6), 0, dtype)
            yield _case(f"{kind}-{dtype}-backward", kind, (6, 20), (6, 20), (19, 20, -1), 0, dtype)


def cost(problem: Problem) -> Cost:
    read = problem.rows * problem.in_steps[0] * problem.in_widths[0]
    return Cost(bytes=4 * (read + problem.rows * problem.out_steps[0] * problem.out_widths[0]), flops=read)


OPERATOR = register_operator(
    Operator(
        name="scan",
        axes={"x": ("M", "steps", "width"), "y": ("M", "steps", "width")},
        reference=reference,
        cases=cases,
        tolerance=tolerance,
        cost=cost,
        lower=lower,
        packed_bytes=lambda stage: lines.table_bytes(stage.attrs["dims"], 2),
        by_row=False,
    )
)
