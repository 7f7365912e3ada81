"""Small systems in Triton, in float64: a matrix in the registers of one program, column after column.

Elimination goes through all rows at once, those above the pivot too (Gauss and Jordan), so that no substitution follows; pivots
are those of Gauss. A row or column is taken out of the registers by a sum over the tile in which all others are zero. So matrices
of up to 16 need no barrier: they are one warp's.

A card cannot raise. Outside of a graph the call waits for a mark of each matrix, and raises what the CPU raises. In a replay
nobody waits: the solution of a matrix that has none is NaN.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from rtaccel.core.errors import FormatError
from rtaccel.core.registry import Impl, Prepared, register_impl
from rtaccel.core.stage import Problem, Stage
from rtaccel.kernels._general.triton_tile import require_values, too_large
from rtaccel.kernels._gpu.capture import can_look
from rtaccel.kernels._gpu.triton_launch import bind
from rtaccel.kernels._gpu.triton_spec import Specialisation, Tiling, leave_out, power_of_two
from rtaccel.kernels.solve import contract

MARKED = ("solve", "inverse", "cholesky")
"""Kinds that refuse a matrix."""


@triton.jit
def row_of(a, rows, k):
    """Row k of a tile: [1, columns]."""
    return tl.sum(tl.where(rows == k, a, 0.0), 0, keep_dims=True)


@triton.jit
def column_of(a, columns, k):
    """Column k of a tile: [rows, 1]."""
    return tl.sum(tl.where(columns == k, a, 0.0), 1, keep_dims=True)


@triton.jit
def eliminated(a, b, N: tl.constexpr):
    """(diagonal [rows, 1] of a, b, pivots [rows, 1], whether one was 0): with a diagonal, a^-1 b is b divided by it."""
    r, c = tl.arange(0, a.shape[0])[:, None], tl.arange(0, a.shape[1])[None, :]
    pivots = tl.zeros((a.shape[0], 1), tl.float64)
    sign = tl.full((1, 1), 1.0, tl.float64)
    singular = tl.zeros((1, 1), tl.int32)
    for k in range(N):
        column = column_of(a, c, k)
        size = tl.where((r >= k) & (r < N), tl.abs(column), -1.0)
        most = tl.max(size, 0, keep_dims=True)
        p = tl.min(tl.where(size == most, r, N), 0, keep_dims=True)
        p = tl.where(p == N, k, p)  # a NaN is not as large as itself
        pivot, other = row_of(column, r, p), row_of(column, r, k)
        row, above = row_of(a, r, p), row_of(a, r, k)
        a = tl.where(r == k, row, tl.where(r == p, above, a))
        right, beside = row_of(b, r, p), row_of(b, r, k)
        b = tl.where(r == k, right, tl.where(r == p, beside, b))
        column = tl.where(r == p, other, column)
        nothing = pivot == 0.0
        factor = tl.where(nothing, 0.0, column / tl.where(nothing, 1.0, pivot))
        a = tl.where(r == k, a, a - factor * row)
        b = tl.where(r == k, b, b - factor * right)
        pivots = tl.where(r == k, pivot, pivots)
        sign = tl.where(p == k, sign, -sign)
        singular = singular | nothing.to(tl.int32)
    diagonal = tl.sum(tl.where(r == c, a, 0.0), 1, keep_dims=True)
    return diagonal, b, tl.where(r == 0, pivots * sign, pivots), singular


@triton.jit
def substituted(a, b, N: tl.constexpr, UPPER: tl.constexpr, UNIT: tl.constexpr):
    """a^-1 b of a triangle a."""
    r, c = tl.arange(0, a.shape[0])[:, None], tl.arange(0, a.shape[1])[None, :]
    for step in range(N):
        k = N - 1 - step if UPPER else step
        column = column_of(a, c, k)
        found = row_of(b, r, k)
        if not UNIT:
            found = found / row_of(column, r, k)
        left = r < k if UPPER else r > k
        b = tl.where(r == k, found, tl.where(left, b - column * found, b))
    return b


@triton.jit
def triangle(a, N: tl.constexpr):
    """(lower triangle of a symmetric a, whether a is not positive definite)."""
    r, c = tl.arange(0, a.shape[0])[:, None], tl.arange(0, a.shape[1])[None, :]
    y = tl.zeros((a.shape[0], a.shape[1]), tl.float64)
    refused = tl.zeros((1, 1), tl.int32)
    for k in range(N):
        column, row = column_of(a, c, k), row_of(a, r, k)
        d = row_of(column, r, k)
        positive = d > 0.0
        refused = refused | tl.where(positive, 0, 1)
        root = tl.sqrt(tl.where(positive, d, 1.0))
        down = tl.where(r > k, column / root, 0.0)
        y = tl.where(c == k, tl.where(r == k, root, down), y)
        a = a - down * tl.where(c > k, row / root, 0.0)
    return y, refused


@triton.jit
def solve_kernel(
    a_ptr, b_ptr, y_ptr, mark_ptr, KIND: tl.constexpr, N: tl.constexpr, COLUMNS: tl.constexpr, COUNT: tl.constexpr,
    A_FIXED: tl.constexpr, B_FIXED: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    matrix = program.to(tl.int64)
    r, c = tl.arange(0, BLOCK_N)[:, None], tl.arange(0, BLOCK_N)[None, :]
    square = (r < N) & (c < N)
    a_ptr += (program % COUNT if A_FIXED else matrix) * (N * N)
    at = r * N + c
    if KIND == "cholesky":  # the other triangle is not read
        at = tl.maximum(r, c) * N + tl.minimum(r, c)
    a = tl.load(a_ptr + at, mask=square, other=0.0).to(tl.float64)
    marked = tl.zeros((1, 1), tl.int32)
    if KIND == "cholesky":
        y, marked = triangle(a, N)
    elif KIND == "pivots":
        _, _, y, _ = eliminated(a, tl.zeros((BLOCK_N, 1), tl.float64), N)
    elif KIND == "inverse":
        d, y, _, marked = eliminated(a, tl.where(r == c, 1.0, 0.0).to(tl.float64), N)
        y = y / tl.where(marked > 0, 1.0, d)
    else:
        n = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)[None, :]
        b_ptr += (program % COUNT if B_FIXED else matrix) * (N * COLUMNS)
        b = tl.load(b_ptr + r * COLUMNS + n, mask=(r < N) & (n < COLUMNS), other=0.0).to(tl.float64)
        if KIND == "solve":
            d, y, _, marked = eliminated(a, b, N)
            y = y / tl.where(marked > 0, 1.0, d)
        elif KIND == "factored":
            turned = tl.load(a_ptr + c * N + r, mask=square, other=0.0).to(tl.float64)
            y = substituted(turned, substituted(a, b, N, False, False), N, True, False)
        else:
            UNIT: tl.constexpr = KIND == "unit lower" or KIND == "unit upper"
            UPPER: tl.constexpr = KIND == "upper" or KIND == "unit upper"
            y = substituted(a, b, N, UPPER, UNIT)
    y = tl.where(marked > 0, float("nan"), y).to(tl.float32)
    if KIND == "pivots":
        tl.store(y_ptr + matrix * N + r, y, mask=r < N)
    elif KIND == "cholesky" or KIND == "inverse":
        tl.store(y_ptr + matrix * (N * N) + r * N + c, y, mask=square)
    else:
        tl.store(y_ptr + matrix * (N * COLUMNS) + r * COLUMNS + n, y, mask=(r < N) & (n < COLUMNS))
    if mark_ptr is not None:
        tl.store(mark_ptr + matrix + tl.zeros((1, 1), tl.int32), marked)


def specialize(stage: Stage) -> Specialisation:
    """Not measured on a card."""
    kind, n, columns, count = (stage.attrs[name] for name in ("kind", "n", "columns", "count"))
    block_n, system = power_of_two(n, 1, contract.MAX_N), kind in contract.SYSTEMS
    block_c = power_of_two(columns, 1, 32) if system else block_n
    pointers = {"a_ptr": "*fp32", "b_ptr": "*fp32", "y_ptr": "*fp32", "mark_ptr": "*i32"}
    signature, absent = leave_out(pointers, b_ptr=system, mark_ptr=kind in MARKED)
    fixed = "".join(f"_{name}" for name in stage.tensors)
    return Specialisation(
        name=f"solve_{kind.replace(' ', '_')}_n{n}_C{columns}_x{count}{fixed}",
        kernel=solve_kernel,
        signature=signature,
        constants={
            "KIND": kind, "N": n, "COLUMNS": columns, "COUNT": count, "A_FIXED": "a" in stage.tensors,
            "B_FIXED": "b" in stage.tensors, "BLOCK_N": block_n, "BLOCK_C": block_c, **absent,
        },
        tiling=Tiling(1, block_n, block_c, num_warps=power_of_two(block_n * max(block_n, block_c) // 256, 1, 8)),
    )  # fmt: skip


def prepare(stage: Stage, problem: Problem) -> Prepared:
    """a and b, those that are no constants, [M, steps, width] -> y [M, steps, width]; any M."""
    low, spec, out = contract.lower(stage), specialize(stage), stage.outputs[0]
    kind, count, columns = stage.attrs["kind"], stage.attrs["count"], stage.attrs["columns"]
    launch, tile, marks = bind(spec), spec.tiling, kind in MARKED
    fixed = {f"{name}_ptr": low[name].contiguous().to(problem.device) for name in stage.tensors}
    names = [f"{name}_ptr" for name in "ab" if name not in stage.tensors]
    across = triton.cdiv(columns, tile.block_k) if kind in contract.SYSTEMS else 1

    def call(*inputs: Tensor) -> tuple[Tensor]:
        given = require_values(stage, inputs)
        m, device = given[0].shape[0], given[0].device
        y = torch.empty((m, *out.shape), dtype=torch.float32, device=device)
        if not m:
            return (y,)
        pointers: dict[str, Any] = dict(zip(names, given))
        if marks:
            pointers["mark_ptr"] = torch.empty(m * count, dtype=torch.int32, device=device)
        launch((m * count, across), y_ptr=y, **pointers, **fixed)
        if marks and can_look(y) and bool((pointers["mark_ptr"] != 0).any()):
            which = int((pointers["mark_ptr"] != 0).nonzero()[0])
            raise FormatError("solve", f"matrix {which % count} of sample {which // count}", contract.EXPECTED[kind],
                              "Mend the input.")  # fmt: skip
        return (y,)

    return call


def specializations() -> Iterator[Specialisation]:
    """The forms that are compiled and held to a budget without a GPU."""
    for kind, n, columns in (("solve", 8, 1), ("solve", 64, 4), ("cholesky", 32, 1), ("factored", 32, 1)):
        stage = contract.make_stage(kind, n, columns)
        Problem.of(stage, 1, "cuda")
        yield specialize(stage)


register_impl(Impl("solve", "triton_registers", "triton", 10, too_large, prepare))
