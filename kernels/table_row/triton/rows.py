"""Table row in Triton: a tile of streams by columns. A program that has the first columns counts its streams on. Where it adds
x, it is a step of `position`.

A step beyond the table raises before the launch, where nobody captures. In a replay its row is NaN, and memory outside is not
read; the count goes on, so it stays outside until the stream is reset.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from rtaccel.core.errors import FormatError, ShapeError
from rtaccel.core.registry import Impl, Prepared, register_impl
from rtaccel.core.stage import Problem, Stage
from rtaccel.kernels._gpu.capture import can_look
from rtaccel.kernels._gpu.triton_launch import bind
from rtaccel.kernels._gpu.triton_spec import Specialisation, Tiling, leave_out, power_of_two
from rtaccel.kernels.table_row import contract

MOST = 2**23
"""Rows of a table, and columns: whole numbers that float32 counts, and elements that int32 numbers."""


@triton.jit(do_not_specialize=["rows"])
def table_row_kernel(
    x_ptr, count_ptr, table_ptr, y_ptr, after_ptr, rows, T: tl.constexpr, C: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Grid (streams, columns) in tiles."""
    m = (tl.program_id(0) * BLOCK_M).to(tl.int64) + tl.arange(0, BLOCK_M)[:, None]
    column = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)[None, :]
    count = tl.load(count_ptr + m, mask=m < rows, other=0.0)
    known = (count >= 0.0) & (count < T)
    row = tl.where(known, count, 0.0).to(tl.int32)
    inside = (m < rows) & (column < C)
    y = tl.load(table_ptr + row.to(tl.int64) * C + column, mask=inside & known, other=float("nan"))
    if x_ptr is not None:
        y += tl.load(x_ptr + m * C + column, mask=inside, other=0.0)
    tl.store(y_ptr + m * C + column, y, mask=inside)
    if tl.program_id(1) == 0:
        tl.store(after_ptr + m, count + 1.0, mask=m < rows)


def specialize(table: Tensor, rows: int, adds: bool = False) -> Specialisation:
    t, c = table.shape
    pointers = ("x_ptr", "count_ptr", "table_ptr", "y_ptr", "after_ptr")
    signature, absent = leave_out({**dict.fromkeys(pointers, "*fp32"), "rows": "i32"}, x_ptr=adds)
    block_c = power_of_two(c, 1, 256)
    block_m = power_of_two(rows, 1, max(256 // block_c, 1))
    return Specialisation(
        name=f"{'position_step' if adds else 'table_row'}_T{t}_C{c}_{block_m}x{block_c}",
        kernel=table_row_kernel,
        signature=signature,
        constants={"T": t, "C": c, "BLOCK_M": block_m, "BLOCK_C": block_c, **absent},
        tiling=Tiling(block_m, block_c, 1, num_warps=power_of_two(block_m * block_c // 128, 1, 2)),
    )


def prepare(stage: Stage, problem: Problem) -> Prepared:
    """count float32 [M, 1] -> (y [M, C], count + 1); any M."""
    step = counted("table_row", contract.lower(stage)["table"], problem)
    return lambda count: step(count)


def counted(op: str, table: Tensor, problem: Problem, adds: bool = False) -> Callable[..., tuple[Tensor, Tensor]]:
    """(count float32 [M, 1], and x float32 [M, C] where it is added) -> (rows of the table [M, C], count + 1); any M."""
    table = table.float().contiguous().to(problem.device)
    spec = specialize(table, problem.rows, adds)
    launch, tile, (t, c) = bind(spec), spec.tiling, table.shape

    def call(count: Tensor, *x: Tensor) -> tuple[Tensor, Tensor]:
        at, m = count.contiguous(), count.shape[0]
        if any(
            tuple(given.shape) != (m, c) or given.dtype != torch.float32 or not given.is_contiguous() for given in x
        ):
            raise ShapeError(
                op, f"x {[tuple(given.shape) for given in x]}", f"contiguous float32 [{m}, {c}]", "Convert it."
            )
        if can_look(at) and bool((bad := ~((at >= 0) & (at < t))).any()):
            raise FormatError(
                op, f"a stream at step {at[bad][0].item():.0f}", f"a step of 0..{t - 1}",
                "Reset the stream; nothing was computed.",
            )  # fmt: skip
        y, after = torch.empty((m, c), device=at.device), torch.empty_like(at)
        if m:
            grid = (triton.cdiv(m, tile.block_m), triton.cdiv(c, tile.block_n))
            own = {"x_ptr": x[0]} if x else {}
            launch(grid, **own, count_ptr=at, table_ptr=table, y_ptr=y, after_ptr=after, rows=m)
        return y, after

    return call


def supports(problem: Problem) -> str | None:
    wide = problem.out_widths[0]
    return None if wide < MOST else f"numbers at most {MOST} columns, not {wide}"


def specializations() -> Iterator[Specialisation]:
    """The forms that are compiled and held to a budget without a GPU."""
    for stage, rows in ((contract.make_stage(64, 256), 1), (contract.make_stage(512, 64), 1024)):
        yield specialize(stage.tensors["table"], Problem.of(stage, rows, "cuda").rows)


register_impl(Impl("table_row", "triton_rows", "triton", 10, supports, prepare))
