"""Reduce: y[kept] = join over all others of x[kept, others], float32, [M, steps, width] each. A sum or a mean may be of
the squares of x, or of x - about[kept].

attrs["kind"]: "sum", "mean", "prod", "amax" or "amin"; a NaN among the elements is the result.
attrs["dims"]: sizes of the kept dimensions, in the order of the elements of y, then of the others. attrs["kept"]: how many are
kept. attrs["place"]: offset and stride of each dimension, in elements of a dense x. attrs["of"]: "elements" or "squares". These
are about 0, or about the second input, which has the shape of y.
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
from rtaccel.kernels._common.strides import dense, elements, limits, resolve
from rtaccel.kernels.reduce.squares import Alone, Inside, Rows
from rtaccel.kernels.reduce.streaming import STREAMING

KINDS = ("sum", "mean", "prod", "amax", "amin")


def iteration(stage: Stage) -> tuple[tuple[int, ...], int, tuple[int, ...]]:
    """(dims, how many are kept, place of x). Raises a typed error where they do not fit the values."""
    dims, kept, place = tuple(stage.attrs["dims"]), stage.attrs["kept"], tuple(stage.attrs["place"])
    x, y = stage.inputs[0], stage.outputs[0]
    if stage.attrs["kind"] not in KINDS:
        raise FormatError("reduce", f"kind {stage.attrs['kind']!r}", f"one of {', '.join(KINDS)}", "Name one of these.")
    low, high = limits(dims, place) if len(place) == len(dims) + 1 and dims else (0, 0)
    of, about = stage.attrs.get("of", "elements"), stage.inputs[1:]
    if of not in ("elements", "squares") or (of == "squares" and stage.attrs["kind"] not in ("sum", "mean")):
        raise FormatError(
            "reduce", f"a {stage.attrs['kind']} of {of}", "a sum or mean of squares", "Correct the stage."
        )
    if len(about) > (of == "squares") or any(v.shape != y.shape for v in about):
        raise ShapeError(
            "reduce", f"squares about {[v.shape for v in about]}", f"one of {y.shape}", "Correct the stage."
        )
    if not 0 <= kept <= len(dims) or len(place) != len(dims) + 1 or low < 0 or high >= x.steps * x.width:
        raise ShapeError(
            "reduce", f"a place {place} over {dims}", f"elements 0..{x.steps * x.width - 1}", "Correct the stage."
        )
    if prod(dims[:kept]) != y.steps * y.width:
        raise ShapeError("reduce", f"{dims[:kept]} kept", f"{y.steps * y.width} elements", "Correct the stage.")
    return dims, kept, place


def lower(stage: Stage) -> Mapping[str, Any]:
    dims, kept, place = iteration(stage)
    x, y = stage.inputs[0], stage.outputs[0]
    target = (*dense(dims[:kept]), *(0 for _ in dims[kept:]))
    found = resolve(
        (*dims[:kept], 1, *dims[kept:]), (_with_one(place, kept), _with_one(target, kept)), (x.width, y.width)
    )
    front = found.dims.index(1, _border(found.dims, prod(dims[:kept])))
    low: dict[str, Any] = {
        "kind": stage.attrs["kind"], "front": front, "dims": found.dims, "strides": found.strides(), "over": prod(dims[kept:]),
        "of": stage.attrs.get("of", "elements"),
    }  # fmt: skip
    for i, table in enumerate(found.tables):
        if table is not None:
            low[f"table{i}"] = tuple(int(e) for e in table)
    return low


def _with_one(place: tuple[int, ...], kept: int) -> tuple[int, ...]:
    """A dimension of size 1 marks where the kept ones end, however they are split."""
    return (*place[: kept + 1], 0, *place[kept + 1 :])


def _border(dims: tuple[int, ...], product: int) -> int:
    at, found = 0, 1
    while found != product:
        found *= dims[at]
        at += 1
    return at


def _elements(stage: Stage, x: Tensor) -> Tensor:
    """[M, kept, others]"""
    dims, kept, place = iteration(stage)
    index = torch.from_numpy(elements(dims, place)).to(x.device)
    return x.flatten(1)[:, index].reshape(x.shape[0], prod(dims[:kept]), prod(dims[kept:]))


def joined(kind: str, x: Tensor) -> Tensor:
    """Over the last dimension, in the dtype of x."""
    call = {"sum": torch.sum, "mean": torch.mean, "prod": torch.prod, "amax": torch.amax, "amin": torch.amin}[kind]
    result: Tensor = call(x, -1)
    return result


def terms(stage: Stage, x: Tensor, *about: Tensor) -> Tensor:
    """What is joined, [M, kept, others], in the dtype of x."""
    found = _elements(stage, x)
    if stage.attrs.get("of") != "squares":
        return found
    for numbers in about:
        found = found - numbers.flatten(1)[..., None]
    return found * found


def reference(stage: Stage, x: Tensor, *about: Tensor) -> tuple[Tensor]:
    y = joined(stage.attrs["kind"], terms(stage, x.double(), *(t.double() for t in about))).float()
    return (y.reshape(x.shape[0], *stage.outputs[0].shape),)


def tolerance(stage: Stage, x: Tensor, *about: Tensor) -> Tolerance:
    """n additions of float32: each rounds a partial sum, which is at most the sum of sizes. A product: n roundings of it. A
    square: two of the difference, and its own."""
    kind, parts = stage.attrs["kind"], terms(stage, x.double(), *(t.double() for t in about))
    if kind in ("amax", "amin"):
        return Tolerance()
    n, eps = parts.shape[-1], torch.finfo(torch.float32).eps
    size = parts.abs().nan_to_num(posinf=0.0)
    bound = size.prod(-1) if kind == "prod" else size.sum(-1) / (n if kind == "mean" else 1)
    return Tolerance(
        atol=(eps * (n + 2 + 3 * (stage.attrs.get("of") == "squares")) * bound + 1e-37).reshape(
            x.shape[0], *stage.outputs[0].shape
        )
    )


def make_stage(kind: str, shape: tuple[int, int], out: tuple[int, int], dims: tuple[int, ...], kept: int,
               place: tuple[int, ...]) -> Stage:  # fmt: skip
    """kind: also "sum-squares" and such; "sum-about" for squares about numbers."""
    x, y = Value("x", shape[1], steps=shape[0]), Value("y", out[1], steps=out[0])
    about = (Value("about", out[1], steps=out[0]),) if kind.endswith("-about") else ()
    kind, _, squares = kind.partition("-")
    attrs = {"kind": kind, "dims": dims, "kept": kept, "place": place, **({"of": "squares"} if squares else {})}
    return Stage("reduce", "case", (x, *about), (y,), {}, attrs)


def _case(label: str, shape: tuple[int, int], out: tuple[int, int], kind: str, dims: tuple[int, ...], kept: int,
          place: tuple[int, ...]) -> Case:  # fmt: skip
    stage = make_stage(kind, shape, out, dims, kept, place)
    x, *about = stage.inputs

    def make(seed: int) -> tuple[Tensor, ...]:
        g = torch.Generator().manual_seed(seed)
        values = torch.randn(3, *x.shape, generator=g) * (0.4 if kind == "prod" else 2.0) + (
            1.0 if kind == "prod" else 0.0
        )
        rare = torch.rand(values.shape, generator=g)
        values = torch.where(rare < 0.002, torch.tensor(float("nan")), values)
        values = torch.where((rare > 0.998) & (kind != "prod"), torch.tensor(float("inf")), values)
        return (values, *(torch.randn(3, *v.shape, generator=g) for v in about))

    return Case(label, stage, make)


def cases() -> Iterator[Case]:
    for kind in (*KINDS, "sum-squares", "mean-about"):
        for h, c in ((1, 1), (5, 3), (49, 16), (12, 64), (7, 130), (300, 20), (2, 300)):
            yield _case(f"{kind}-columns-{h}x{c}", (h, c), (1, c), kind, (c, h), 1, (0, 1, c))
            yield _case(f"{kind}-rows-{h}x{c}", (h, c), (h, 1), kind, (h, c), 1, (0, c, 1))
            yield _case(f"{kind}-flat-{h}x{c}", (1, h * c), (1, h), kind, (h, c), 1, (0, c, 1))
            yield _case(f"{kind}-all-{h}x{c}", (h, c), (1, 1), kind, (h, c), 0, (0, c, 1))
        for h, c in ((33, 9), (64, 16), (21, 32), (40, 67)):  # squares of results, and what is left of them
            yield _case(f"{kind}-rows-{h}x{c}", (h, c), (h, 1), kind, (h, c), 1, (0, c, 1))
            yield _case(f"{kind}-part-{h}x{c}", (h, c + 3), (1, h), kind, (h, c), 1, (2, c + 3, 1))
        for rows in ((6, 20), (15, 8), (8, 15), (1, 120)):
            for out in ((1, 20), (5, 4), (20, 1)):
                yield _case(f"{kind}-inner-{rows[0]}-{out[0]}", rows, out, kind, (5, 4, 6), 2, (0, 24, 1, 4))
            yield _case(f"{kind}-outer-{rows[0]}", rows, (3, 8), kind, (6, 4, 5), 2, (0, 20, 1, 4))
            yield _case(f"{kind}-repeated-{rows[0]}", rows, (3, 8), kind, (6, 4, 3, 5), 2, (0, 20, 1, 0, 4))


def cost(problem: Problem) -> Cost:
    read = problem.rows * problem.in_steps[0] * problem.in_widths[0]
    return Cost(bytes=4 * (read + problem.rows * problem.out_steps[0] * problem.out_widths[0]), flops=read)


def packed_bytes(stage: Stage) -> int:
    return 4096 + 16 * prod(stage.attrs["dims"])


OPERATOR = register_operator(
    Operator(
        name="reduce",
        axes={"x": ("M", "steps", "width"), "y": ("M", "steps", "width")},
        reference=reference,
        cases=cases,
        tolerance=tolerance,
        cost=cost,
        lower=lower,
        packed_bytes=packed_bytes,
        by_row=False,
        planes=Rows(),
        squares=Inside(),
        pairs=Alone(),
        streaming=STREAMING,
    )
)
