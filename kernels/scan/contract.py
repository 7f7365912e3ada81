"""Scan: y[line, i] = join of x[line, 0..i], or the join of the whole line alone; [M, steps, width].

attrs["kind"]: "sum", "prod", "max", "min" or "logsumexp". attrs["last"]: 1 where only the join of the whole line is given.
attrs["dims"]: sizes of the dimensions that lines differ in, then of the one that they run along. attrs["places"]: of x, and
of y (without the last dimension where `last` is 1): offset and strides in elements of a dense value.

x and y are both float32, or both int64, which wraps around; "logsumexp" takes float32. float32 is joined in float64, one element
after the other, and each result is rounded. From a NaN on, every result of a line is NaN.

Streaming (attr stream = 1, not of "logsumexp"): the last of dims is 1, and a state [lines, 2] of int64 comes last of the inputs
and of the outputs. It has the join so far, as it is or as the bits of a float64, and 1 once there was a step: y = join of both.
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
from rtaccel.core.traits import Role
from rtaccel.kernels._common import lines
from rtaccel.kernels._common.strides import dense
from rtaccel.kernels.scan.streaming import STREAMING

KINDS = ("sum", "prod", "max", "min", "logsumexp")


def is_stream(stage: Stage) -> bool:
    return bool(stage.attrs.get("stream", 0))


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
    if is_stream(stage):
        states = (*stage.inputs[1:], *stage.outputs[1:])
        fits = len(states) == 2 and all((s.dtype, s.steps, s.width) == ("int64", prod(dims[:-1]), 2) for s in states)
        if not fits or dims[-1] != 1 or stage.attrs["last"] or kind == "logsumexp":
            raise ShapeError("scan", f"a stream of {kind!r} over {dims}", f"one step, and a state [{prod(dims[:-1])}, 2]",
                             "Correct the stage.")  # fmt: skip
    return dims, out, place, target


def lower(stage: Stage) -> Mapping[str, Any]:
    dims, out, place, target = _geometry(stage)
    kept = len(dims) - 1
    return {
        "kind": stage.attrs["kind"], "last": stage.attrs["last"], "count": prod(dims[:-1]), "along": dims[-1],
        **({"stream": 1} if is_stream(stage) else {}),
        **lines.tables("0", dims, kept, place, stage.inputs[0].width),
        **lines.tables("1", out, kept, target, stage.outputs[0].width),
    }  # fmt: skip


def joined(kind: str, x: Tensor) -> Tensor:
    """Along the last dimension: float32 in float64."""
    return _joined(kind, x.double() if x.is_floating_point() else x).to(x.dtype)


def _joined(kind: str, wide: Tensor) -> Tensor:
    if kind == "sum":
        found = wide.cumsum(-1)
    elif kind == "prod":
        found = wide.cumprod(-1)
    elif kind == "logsumexp":
        found = wide.logcumsumexp(-1)
    else:
        found = (wide.cummax(-1) if kind == "max" else wide.cummin(-1)).values
    return found


def _one_step(stage: Stage, x: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
    dims, _, place, target = _geometry(stage)
    now = lines.read(x, dims, len(dims) - 1, place)[..., 0]
    wide = now.double() if now.is_floating_point() else now
    held = past.flatten(1).unflatten(1, (-1, 2))
    before = held[..., 0].contiguous()
    before = before.view(torch.float64) if wide.is_floating_point() else before
    y = torch.where(held[..., 1] != 0, _joined(stage.attrs["kind"], torch.stack((before, wide), -1))[..., -1], wide)
    kept = y.contiguous().view(torch.int64) if y.is_floating_point() else y
    made = lines.written(y.to(x.dtype)[..., None], dims, target, stage.outputs[0].shape)
    return made, torch.stack((kept, torch.ones_like(kept)), -1).reshape(past.shape)


def reference(stage: Stage, x: Tensor, *past: Tensor) -> tuple[Tensor, ...]:
    if is_stream(stage):
        return _one_step(stage, x, past[0])
    dims, out, place, target = _geometry(stage)
    y = joined(stage.attrs["kind"], lines.read(x, dims, len(dims) - 1, place))
    y = y[..., -1:] if stage.attrs["last"] else y
    return (lines.written(y, out, target, stage.outputs[0].shape),)


def tolerance(stage: Stage, x: Tensor, *past: Tensor) -> Tolerance:
    """A step of a stream joins two numbers, and rounds once: it is exact. Else a rounding to float32, and n of float64 of at most
    the sum of sizes. Extremes and whole numbers are exact. A logarithm of a sum may lose the digits of float64 that its sum has
    before it: the errors of exp and log1p in float64 add up."""
    kind = stage.attrs["kind"]
    if x.dtype == torch.int64 or kind in ("max", "min") or is_stream(stage):
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


def _stream_case(kind: str, dtype: str, shape: tuple[int, int], dims: tuple[int, ...], place: lines.Place) -> Case:
    count = prod(dims)
    x, y = (Value(name, shape[1], dtype, steps=shape[0]) for name in ("x", "y"))
    past, kept = (Value(name, 2, "int64", steps=count) for name in ("past", "kept"))
    attrs = {"kind": kind, "last": 0, "dims": (*dims, 1), "places": ((*place, 0), (*place, 0)), "stream": 1}
    stage = Stage("scan", "case", (x, past), (y, kept), {}, attrs)

    def make(seed: int) -> tuple[Tensor, ...]:
        g = torch.Generator().manual_seed(seed)
        begun = torch.randint(2, (3, count), generator=g)
        if dtype == "int64":
            now, before = (torch.randint(-1 << 40, 1 << 40, (3, *s), generator=g) for s in (x.shape, (count,)))
        else:
            now, wide = torch.randn(3, *x.shape, generator=g), torch.randn(3, count, generator=g, dtype=torch.float64)
            now = torch.where(torch.rand(now.shape, generator=g) < 0.05, torch.tensor(float("nan")), now)
            before = wide.view(torch.int64)
        return now, torch.stack((torch.where(begun != 0, before, 0), begun), -1).reshape(3, *past.shape)

    return Case(f"{kind}-{dtype}-{shape[0]}x{shape[1]}-stream", stage, make)


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
            for h, c in ((1, 1), (5, 3), (7, 16), (12, 67), (130, 9), (6, 512)):
                for last in (0, 1):
                    tag = f"{kind}-{dtype}-{h}x{c}-{'last' if last else 'all'}"
                    yield _case(f"{tag}-down", kind, (h, c), (c, h), (0, 1, c), last, dtype)
                    yield _case(f"{tag}-right", kind, (h, c), (h, c), (0, c, 1), last, dtype)
            yield _case(f"{kind}-{dtype}-middle", kind, (6, 20), (5, 6, 4), (0, 24, 1, 6), 0, dtype)
            yield _case(f"{kind}-{dtype}-backward", kind, (6, 20), (6, 20), (19, 20, -1), 0, dtype)

    for kind in KINDS[:-1]:
        for dtype in ("float32", "int64"):
            yield _stream_case(kind, dtype, (1, 1), (1,), (0, 1))
            yield _stream_case(kind, dtype, (3, 7), (7, 3), (0, 1, 7))
            yield _stream_case(kind, dtype, (1, 37), (37,), (36, -1))


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
        streaming=STREAMING,
        role=Role.RUNNING,
    )
)
