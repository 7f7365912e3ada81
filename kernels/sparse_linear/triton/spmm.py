"""Single weights times many rows of x: each weight meets as many rows as one gather brings.

x is turned first, so that the numbers of an input lie together for a tile of rows: [tiles, K, rows of a tile]. A program of one
warp then computes one output of a tile: it walks along the row's weights, a lane a weight or two, and gathers for each the 16
bytes or more of its input. Turning is a launch of its own. int8 x int8 with sums in int32, exact; or float32 x with weights of
float32, bfloat16 or int8, sums in float32.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from rtaccel.core.registry import Impl, Prepared, register_impl
from rtaccel.core.stage import Problem, Stage
from rtaccel.core.weight_format import WeightFormat
from rtaccel.kernels._gpu.triton_epilogue import Epilogue, epilogue
from rtaccel.kernels._gpu.triton_launch import bind
from rtaccel.kernels._gpu.triton_nan_propagation import nan_propagator
from rtaccel.kernels._gpu.triton_spec import (
    WIDE_LOAD,
    Specialisation,
    Tiling,
    power_of_two,
    require_matrix,
    require_row_scale,
)
from rtaccel.kernels.sparse_linear.triton.pack import pack
from rtaccel.kernels.sparse_linear.triton.rows import (
    POINTERS,
    KernelConfig,
    operands_of,
    problem_of_size,
    unsupported,
)
from rtaccel.kernels.sparse_linear.triton.walk import row_units

FEW_ROWS = 4

MAX_OUTPUTS = 65_535
"""Programs along the second axis of a grid, one an output."""


@triton.jit(do_not_specialize=["rows"])
def turn_kernel(x_ptr, turned_ptr, rows, K: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr):
    """x [rows, K] as [tiles, K, BLOCK_M], rows beyond the last as zeros."""
    tile = tl.program_id(0).to(tl.int64)
    lane, k = tl.arange(0, BLOCK_M), tl.program_id(1) * BLOCK_K + tl.arange(0, BLOCK_K)
    m = tile * BLOCK_M + lane
    x = tl.load(
        x_ptr + m[:, None] * K + k[None, :], mask=(m < rows)[:, None] & (k < K)[None, :], other=0
    )  # [BLOCK_M, BLOCK_K]
    tl.store(turned_ptr + (tile * K + k[:, None]) * BLOCK_M + lane[None, :], tl.trans(x), mask=(k < K)[:, None])


@triton.jit(do_not_specialize=["rows", "y_zero_point"])
def spmm_kernel(
    x_ptr, weight_ptr, columns_ptr, starts_ptr,
    y_ptr, multiplier_ptr, offset_ptr, compensation_ptr, row_scale_ptr, parameter, y_inv_scale, y_zero_point, rows,
    N: tl.constexpr, ACTIVATION: tl.constexpr, INT8_OUT: tl.constexpr, ASM: tl.constexpr, K: tl.constexpr,
    UNIT: tl.constexpr, LEAD: tl.constexpr, INT8: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    """x turned. UNIT: weights of a unit of the stream; LEAD units are a whole number of lines."""
    tile, n = tl.program_id(0).to(tl.int64), tl.program_id(1)
    first = tl.load(starts_ptr + n)
    units, before = row_units(first, tl.load(starts_ptr + n + 1), K, 1, UNIT), first % LEAD
    begin, end = before * UNIT, (before + units) * UNIT  # from where a line begins
    w_row, column_row = (
        weight_ptr + (first - before).to(tl.int64) * UNIT,
        columns_ptr + (first - before).to(tl.int64) * UNIT,
    )
    x_tile = x_ptr + tile * K * BLOCK_M + tl.arange(0, BLOCK_M)[None, :]
    entry, zero = tl.arange(0, BLOCK_E)[:, None], tl.zeros((BLOCK_E, BLOCK_M), tl.int32)

    acc = zero if INT8 else zero.to(tl.float32)
    for e0 in range(0, end, BLOCK_E):
        at = e0 + entry
        w = tl.load(w_row + at, mask=(at >= begin) & (at < end), other=0)  # [BLOCK_E, 1]
        column = tl.load(column_row + at, mask=(at >= begin) & (at < end), other=0).to(tl.int64)  # [BLOCK_E, 1]
        there = (at + zero >= begin) & (at + zero < end)
        x = tl.load(x_tile + column * BLOCK_M, mask=there, other=0)  # [BLOCK_E, BLOCK_M]
        if INT8:
            acc += w.to(tl.int32) * x.to(tl.int32)
        else:
            acc = tl.fma(w.to(tl.float32) + zero.to(tl.float32), x, acc)

    m = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    in_m = m < rows
    epilogue(tl.sum(acc, 0)[:, None], m, in_m, n + tl.arange(0, 1), None, Epilogue(
        y_ptr, multiplier_ptr, offset_ptr, compensation_ptr, row_scale_ptr, None, parameter, y_inv_scale, y_zero_point, N,
        ACTIVATION, INT8_OUT, ASM,
    ))  # fmt: skip


def supports(problem: Problem) -> str | None:
    """For more rows than one sum each takes. Of blocks only the float32 ones, which have no tensor cores."""
    floats = problem.weight_format is WeightFormat.FLOAT32
    reason = unsupported(problem, ("window", "blocks") if floats else ("window",))
    if reason is None and problem.matrix_rows <= FEW_ROWS:
        return f"meets more than {FEW_ROWS} rows with each weight, not M = {problem.matrix_rows}"
    if reason is None and problem.out_widths[0] > MAX_OUTPUTS:
        return f"has a program for each output, for N <= {MAX_OUTPUTS}, not N = {problem.out_widths[0]}"
    return reason


def specialize(config: KernelConfig, rows: int) -> Specialisation:
    """At least 16 bytes of x for each weight. Not measured on a card."""
    m = power_of_two(rows, 16 if config.x == "int8" else 8, 32)
    tile = Tiling(m, 1, 64, num_warps=1)
    return Specialisation(
        name=f"sparse_spmm_M{m}_{config}",
        kernel=spmm_kernel,
        signature=config.signature(config.where),
        constants={
            **config.constants, "UNIT": config.unit, "LEAD": config.lead, "INT8": config.x == "int8", "BLOCK_M": m,
            "BLOCK_E": tile.block_k,
        },
        tiling=tile,
    )  # fmt: skip


def specialize_turn(config: KernelConfig, block_m: int) -> Specialisation:
    pointer = POINTERS[config.x]
    return Specialisation(
        name=f"sparse_turn_M{block_m}_{config.x}_K{config.k}",
        kernel=turn_kernel,
        signature={"x_ptr": pointer, "turned_ptr": pointer, "rows": "i32"},
        constants={"K": config.k, "BLOCK_M": block_m, "BLOCK_K": 64},
        tiling=Tiling(block_m, 1, 64, num_warps=4),
    )


def prepare(stage: Stage, problem: Problem) -> Prepared:
    """x [M, K] and, with dynamic rows, row_scale float32 [M, 1] -> y [M, N]; any M, best for those of the problem."""
    config = KernelConfig.of(problem, 1, 1)
    there, scalars = operands_of(stage, config, problem.device, lambda weight: pack(weight, config))
    spec = specialize(config, problem.matrix_rows)
    turn = specialize_turn(config, spec.tiling.block_m)
    launch, launch_turn, n, k, block_m = bind(spec), bind(turn), config.n, config.k, spec.tiling.block_m
    x_dtype, dtype = (torch.int8 if it == "int8" else torch.float32 for it in (config.x, problem.out_dtypes[0]))
    propagate_nan = None if config.x == "int8" or config.int8_out else nan_propagator(k, n)

    def call(x: Tensor, *row_scale: Tensor) -> tuple[Tensor]:
        require_matrix("sparse_linear", x, k, x_dtype)
        require_row_scale("sparse_linear", x, row_scale, config.scaled)
        rows = x.shape[0]
        y = torch.empty((rows, n), dtype=dtype, device=x.device)
        if y.numel():
            tiles = triton.cdiv(rows, block_m)
            turned = torch.empty((tiles, k, block_m), dtype=x_dtype, device=x.device)
            launch_turn((tiles, triton.cdiv(k, 64)), x_ptr=x, turned_ptr=turned, rows=rows)
            scale = {"row_scale_ptr": row_scale[0]} if row_scale else {}
            launch((tiles, n), x_ptr=turned, y_ptr=y, rows=rows, **there, **scalars, **scale)
            if propagate_nan is not None:
                propagate_nan(x, y)
        return (y,)

    return call


def specializations() -> Iterator[Specialisation]:
    """The forms that are compiled and held to a budget without a GPU."""
    for kind, k, n, rows, activation, out in (
        ("static", 4096, 256, 16, "relu", "int8"),
        ("float32", 4096, 256, 8, "none", "float32"),
    ):
        for turns in (False, True):
            config = KernelConfig.of(problem_of_size(k, n, kind, "window", rows, activation=activation, out=out), 1, 1)
            spec = specialize(config, rows)
            yield (
                specialize_turn(config, spec.tiling.block_m).with_requirements()
                if turns
                else spec.with_requirements(WIDE_LOAD)
            )


register_impl(Impl("sparse_linear", "triton_spmm", "triton", 15, supports, prepare))
