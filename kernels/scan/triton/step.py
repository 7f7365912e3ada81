"""A step of running sums, products and extremes in Triton: each line joins its new number to what it has, one thread a line.

The state is whole numbers, as the contract has it: of float32 the bits of the join in float64, and whether there was a step. It
may stay where it lies. Source is made for the strides of each stage.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from types import MappingProxyType

import torch
import triton
from torch import Tensor

from rtaccel.core.registry import Impl, Prepared, register_impl
from rtaccel.core.stage import Problem, Stage
from rtaccel.kernels._general import triton_lines as lines
from rtaccel.kernels._general.triton_source import digest, kernel_of
from rtaccel.kernels._general.triton_tile import POINTERS, require_values, text_of, too_large
from rtaccel.kernels._gpu.triton_launch import bind
from rtaccel.kernels._gpu.triton_spec import Specialisation, Tiling
from rtaccel.kernels.scan import contract

MAX_LINES = 128
"""Of a program."""

JOINS = {
    "sum": "before + x",
    "prod": "before * x",
    "max": "tl.where((before != before) | (before > x), before, x)",
    "min": "tl.where((before != before) | (before < x), before, x)",
}
"""A NaN among both is kept: of what came before by the first comparison, of x as nothing is larger or smaller than it."""


def specialize(stage: Stage, rows: int) -> Specialisation:
    contract.lower(stage)  # what it refuses, it refuses here too
    dims, (x_place, y_place), kind = tuple(stage.attrs["dims"]), stage.attrs["places"], stage.attrs["kind"]
    x, y, count = stage.inputs[0], stage.outputs[0], prod(dims[:-1])
    kept, is_float = len(dims) - 1, x.dtype == "float32"
    found = {
        name: lines.place(dims, kept, tuple(place), "k", "o", name) for name, place in (("x", x_place), ("y", y_place))
    }
    text = text_of([
        "def kernel(x_ptr, past_ptr, y_ptr, after_ptr, rows, LINES: tl.constexpr, BLOCK_R: tl.constexpr):",
        *lines.rows(count), *(line for part in found.values() for line in part[0]),
        f"x = tl.load(x_ptr + m * {x.steps * x.width} + {found['x'][2]}, mask=there, other=0)",
        *(["x = x.to(tl.float64)"] if is_float else []),
        "at = (m * LINES + k) * 2",
        "bits = tl.load(past_ptr + at, mask=there, other=0)",
        "begun = tl.load(past_ptr + at + 1, mask=there, other=0)",
        "before = bits.to(tl.float64, bitcast=True)" if is_float else "before = bits",
        f"y = tl.where(begun != 0, {JOINS[kind]}, x)",
        f"tl.store(y_ptr + m * {y.steps * y.width} + {found['y'][2]}, y{'.to(tl.float32)' if is_float else ''}, mask=there)",
        f"tl.store(after_ptr + at, y{'.to(tl.int64, bitcast=True)' if is_float else ''}, mask=there)",
        "tl.store(after_ptr + at + 1, tl.full((BLOCK_R, 1), 1, tl.int64), mask=there)",
    ])  # fmt: skip
    block = min(MAX_LINES, triton.next_power_of_2(max(1, rows * count)))
    return Specialisation(
        name=f"scan_step_{kind}_{x.dtype}_{count}_{digest(text)}_{block}",
        kernel=kernel_of(text),
        signature={
            "x_ptr": POINTERS[x.dtype], "past_ptr": "*i64", "y_ptr": POINTERS[y.dtype], "after_ptr": "*i64", "rows": "i32",
        },
        constants={"LINES": count, "BLOCK_R": block},
        tiling=Tiling(block, 1, 1, num_warps=max(1, min(4, block // 32))),
    )  # fmt: skip


class ScanStep:
    """x [M, steps, width] and the state -> (y, the state after the step); any M.

    over: the new state may lie over the old one: each of its numbers is read and written by one thread."""

    over: Mapping[int, int] = MappingProxyType({1: 1})

    def __init__(self, stage: Stage, problem: Problem) -> None:
        self._stage, spec = stage, specialize(stage, problem.rows)
        self._launch, self._block, self._count = bind(spec), spec.constants["BLOCK_R"], spec.constants["LINES"]

    def __call__(self, *given: Tensor) -> tuple[Tensor, ...]:
        return self.into((None, None), *given)

    def into(self, outputs: Sequence[Tensor | None], *given: Tensor) -> tuple[Tensor, ...]:
        """outputs: where each result goes; None for one in memory of its own."""
        x, past = require_values(self._stage, given)
        shape = (x.shape[0], *self._stage.outputs[0].shape)
        y = torch.empty(shape, dtype=x.dtype, device=x.device) if outputs[0] is None else outputs[0]
        after = torch.empty_like(past) if outputs[1] is None else outputs[1]
        if y.numel():
            grid = (triton.cdiv(x.shape[0] * self._count, self._block),)
            self._launch(grid, x_ptr=x, past_ptr=past, y_ptr=y, after_ptr=after, rows=x.shape[0])
        return y, after


def prepare(stage: Stage, problem: Problem) -> Prepared:
    return ScanStep(stage, problem)


def supports(problem: Problem) -> str | None:
    return too_large(problem) if problem.attrs.get("stream") else "takes a step of lines, not all of them"


def specializations() -> Iterator[Specialisation]:
    """The forms that are compiled and held to a budget without a GPU."""
    for case in contract.cases():
        if contract.is_stream(case.stage) and case.id.startswith(("sum-float32-1x1", "max-int64-1x1")):
            yield specialize(case.stage, 1000)


register_impl(Impl("scan", "triton_step", "triton", 10, supports, prepare))
