"""Reduce in Triton: a tile of lines by places along them, joined element by element, and across the tile at the end.

Its source is made for the strides of each stage (kernels/_general).
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
from rtaccel.kernels._general.triton_tile import require_values, text_of, too_large
from rtaccel.kernels._gpu.triton_launch import bind
from rtaccel.kernels._gpu.triton_spec import Specialisation
from rtaccel.kernels.reduce import contract

JOINS = {
    "sum": ("plus", "0.0"), "mean": ("plus", "0.0"), "prod": ("times", "1.0"), "amax": ("larger", '-float("inf")'),
    "amin": ("smaller", 'float("inf")'),
}  # fmt: skip
"""kind -> what joins two numbers, and what leaves a number as it is."""


def specialize(stage: Stage, rows: int) -> Specialisation:
    dims, kept, whole = contract.iteration(stage)
    over, own_lines, x = prod(dims[kept:]), prod(dims[:kept]), stage.inputs[0]
    join, neutral = JOINS[stage.attrs["kind"]]
    for_k, for_o, at_line, at_step = lines.place(dims, kept, whole, "k", "o", "x")
    result = f"tl.reduce(acc, 1, {join}, keep_dims=True)"
    if stage.attrs["kind"] == "mean":
        result = f"quotient({result}, {float(over)!r})"
    text = text_of([
        "def kernel(x_ptr, y_ptr, rows, LINES: tl.constexpr, OVER: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_O: tl.constexpr):",
        *lines.rows(own_lines), *for_k,
        f"start = x_ptr + m * {x.steps * x.width} + {at_line}",
        f"acc = tl.full((BLOCK_R, BLOCK_O), {neutral}, tl.float32)",
        "for o0 in range(0, OVER, BLOCK_O):",
        "    o = o0 + tl.arange(0, BLOCK_O)[None, :]", *(f"    {line}" for line in for_o),
        f"    x = tl.load(start + {at_step}, mask=there & (o < OVER), other={neutral})",
        f"    acc = {join}(acc, x)",
        f"y = {result}",
        "tl.store(y_ptr + r, y, mask=there)",
    ])  # fmt: skip
    tile = lines.tiling(rows * own_lines, over, lines.neighbors(dims, kept, whole))
    return specialisation_of(
        f"reduce_{stage.attrs['kind']}_{own_lines}x{over}",
        text,
        {"x_ptr": "*fp32", "y_ptr": "*fp32", "rows": "i32"},
        {"LINES": own_lines, "OVER": over, "BLOCK_R": tile.block_m, "BLOCK_O": tile.block_k},
        tile,
        ending=f"_{tile.block_m}x{tile.block_k}",
    )


def prepare(stage: Stage, problem: Problem) -> Prepared:
    """x [M, steps, width] -> y [M, steps, width]; any M."""
    spec = specialize(stage, problem.rows)
    launch, tile, own_lines, out = bind(spec), spec.tiling, spec.constants["LINES"], stage.outputs[0]

    def call(x: Tensor) -> tuple[Tensor]:
        (x,) = require_values(stage, (x,))
        y = torch.empty((x.shape[0], *out.shape), dtype=torch.float32, device=x.device)
        if y.numel():
            launch((triton.cdiv(x.shape[0] * own_lines, tile.block_m),), x_ptr=x, y_ptr=y, rows=x.shape[0])
        return (y,)

    return call


def specializations() -> Iterator[Specialisation]:
    """The forms that are compiled and held to a budget without a GPU."""
    for kind, out, place in (("mean", (1, 64), (0, 1, 64)), ("amax", (196, 1), (0, 64, 1))):
        # Over the positions of an image, and over its channels.
        dims = (64, 196) if kind == "mean" else (196, 64)
        stage = contract.make_stage(kind, (196, 64), out, dims, 1, place)
        yield specialize(stage, Problem.of(stage, 1, "cuda").rows)


def supports(problem: Problem) -> str | None:
    if problem.attrs.get("of") == "squares":
        return "squares are an expression of their own on a GPU"
    return too_large(problem)


register_impl(Impl("reduce", "triton_lines", "triton", 10, supports, prepare))
