"""Scan in Triton: a tile of lines by places along them, scanned in the tile, with what came before carried along the line.

float32 sums, products and logarithms of sums are float64 until they are stored; extremes and whole numbers are exact as they are.
A logarithm of a sum is carried as the largest number so far and the sum of exponentials beside it, which is at least 1. Its
source is made for the strides of each stage (kernels/_general).
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import torch
import triton
from torch import Tensor

from rtaccel.core.registry import Impl, Prepared, register_impl
from rtaccel.core.stage import Problem, Stage
from rtaccel.kernels._general import triton_lines as lines
from rtaccel.kernels._general.triton_source import specialisation_of
from rtaccel.kernels._general.triton_tile import POINTERS, require_values, text_of, too_large
from rtaccel.kernels._gpu.triton_launch import bind
from rtaccel.kernels._gpu.triton_spec import Specialisation
from rtaccel.kernels.scan import contract

LOWEST = -(2**63)
"""Of int64. Its text is a difference, as no literal of Python's is negative."""

SINGLE = {
    "sum": ("tl.cumsum({0}, 1)", "tl.sum({0}, 1, keep_dims=True)", "plus"),
    "prod": ("tl.cumprod({0}, 1)", "tl.reduce({0}, 1, times, keep_dims=True)", "times"),
    "max": ("tl.associative_scan({0}, 1, larger)", "tl.reduce({0}, 1, larger, keep_dims=True)", "larger"),
    "min": ("tl.associative_scan({0}, 1, smaller)", "tl.reduce({0}, 1, smaller, keep_dims=True)", "smaller"),
}
"""kind -> (a tile scanned, a tile joined, what joins two numbers)."""


def neutral(kind: str, dtype: str) -> str:
    """What leaves a number as it is."""
    if kind in ("sum", "prod"):
        return "0" if kind == "sum" else "1"
    if dtype == "int64":
        return f"{LOWEST + 1} - 1" if kind == "max" else f"{-LOWEST - 1}"
    return 'float("inf")' if kind == "min" else '-float("inf")'


def body(kind: str, dtype: str, last: bool) -> tuple[list[str], list[str], str]:
    """(lines before the loop, lines in it that make `y` of the tile x, the join of a whole line)."""
    type_of = "tl.int64" if dtype == "int64" else "tl.float64" if kind in ("sum", "prod") else "tl.float32"
    if kind == "logsumexp":
        before = [
            'most = tl.full((BLOCK_R, 1), -float("inf"), tl.float32)',
            "parts = tl.zeros((BLOCK_R, 1), tl.float64)",
        ]
        first = "tl.where(o < OVER, tl.full((BLOCK_R, BLOCK_O), 1.0, tl.float64), 0.0)"
        if last:
            step = [
                f"high, low = tl.reduce((x, {first}), 1, exponentials, keep_dims=True)",
                "most, parts = exponentials(most, parts, high, low)",
            ]
            return before, step, "most.to(tl.float64) + tl.log(parts)"
        step = [
            f"high, low = tl.associative_scan((x, {first}), 1, exponentials)",
            "high, low = exponentials(tl.broadcast_to(most, (BLOCK_R, BLOCK_O)), "
            "tl.broadcast_to(parts, (BLOCK_R, BLOCK_O)), high, low)",
            "y = high.to(tl.float64) + tl.log(low)",
            "most = tl.sum(tl.where(end, high, 0.0), 1, keep_dims=True)",
            "parts = tl.sum(tl.where(end, low, 0.0), 1, keep_dims=True)",
        ]
        return before, step, ""
    scanned, whole, join = SINGLE[kind]
    before = [f"carried = tl.full((BLOCK_R, 1), {neutral(kind, dtype)}, {type_of})"]
    wide = f"x.to({type_of})"
    if last:
        return before, [f"carried = {join}(carried, {whole.format(wide)})"], "carried"
    return before, [
        f"y = {join}(tl.broadcast_to(carried, (BLOCK_R, BLOCK_O)), {scanned.format(wide)})",
        "carried = tl.sum(tl.where(end, y, tl.zeros((BLOCK_R, BLOCK_O), y.dtype)), 1, keep_dims=True)",
    ], ""  # fmt: skip


def specialize(stage: Stage, rows: int) -> Specialisation:
    kind, last, dims = stage.attrs["kind"], bool(stage.attrs["last"]), tuple(stage.attrs["dims"])
    place, target = (tuple(p) for p in stage.attrs["places"])
    x, y, kept = stage.inputs[0], stage.outputs[0], len(dims) - 1
    count, over = prod(dims[:-1]), dims[-1]
    before, step, whole = body(kind, x.dtype, last)
    k_x, o_x, line_x, step_x = lines.place(dims, kept, place, "k", "o", "x")
    k_y, o_y, line_y, step_y = lines.place(dims, kept, (*target, 0) if last else target, "k", "o", "y")
    other = neutral(
        "sum" if kind == "sum" else "prod" if kind == "prod" else "min" if kind == "min" else "max", x.dtype
    )
    store = [] if last else [f"tl.store(to + {step_y}, y, mask=there & (o < OVER))"]
    text = text_of([
        "def kernel(x_ptr, y_ptr, rows, LINES: tl.constexpr, OVER: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_O: tl.constexpr):",
        *lines.rows(count), *k_x, *k_y,
        f"start = x_ptr + m * {x.steps * x.width} + {line_x}",
        f"to = y_ptr + m * {y.steps * y.width} + {line_y}",
        "end = tl.arange(0, BLOCK_O)[None, :] == BLOCK_O - 1",
        *before,
        "for o0 in range(0, OVER, BLOCK_O):",
        "    o = o0 + tl.arange(0, BLOCK_O)[None, :]", *(f"    {line}" for line in (*o_x, *o_y)),
        f"    x = tl.load(start + {step_x}, mask=there & (o < OVER), other={other})",
        *(f"    {line}" for line in (*step, *store)),
        *([f"tl.store(to, {whole}, mask=there)"] if last else []),
    ])  # fmt: skip
    tile = lines.tiling(rows * count, over, lines.neighbors(dims, kept, place))
    return specialisation_of(
        f"scan_{kind}{'_last' if last else ''}_{x.dtype}_{count}x{over}",
        text,
        {"x_ptr": POINTERS[x.dtype], "y_ptr": POINTERS[y.dtype], "rows": "i32"},
        {"LINES": count, "OVER": over, "BLOCK_R": tile.block_m, "BLOCK_O": tile.block_k},
        tile,
        ending=f"_{tile.block_m}x{tile.block_k}",
    )


def prepare(stage: Stage, problem: Problem) -> Prepared:
    """x [M, steps, width] -> y [M, steps, width]; any M."""
    contract.lower(stage)  # what it refuses, it refuses here too
    spec = specialize(stage, problem.rows)
    launch, tile, count, out = bind(spec), spec.tiling, spec.constants["LINES"], stage.outputs[0]

    def call(x: Tensor) -> tuple[Tensor]:
        (x,) = require_values(stage, (x,))
        y = torch.empty((x.shape[0], *out.shape), dtype=x.dtype, device=x.device)
        if y.numel():
            launch((triton.cdiv(x.shape[0] * count, tile.block_m),), x_ptr=x, y_ptr=y, rows=x.shape[0])
        return (y,)

    return call


def specializations() -> Iterator[Specialisation]:
    """The forms that are compiled and held to a budget without a GPU."""
    for kind, last, over in (("sum", 0, 1024), ("logsumexp", 0, 256), ("max", 1, 256)):
        stage = contract.make_stage(kind, (8, over), last)
        yield specialize(stage, Problem.of(stage, 1, "cuda").rows)


def supports(problem: Problem) -> str | None:
    return "takes whole lines, not a step of them" if problem.attrs.get("stream") else too_large(problem)


register_impl(Impl("scan", "triton_lines", "triton", 10, supports, prepare))
