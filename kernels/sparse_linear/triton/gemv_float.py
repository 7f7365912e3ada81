"""Sparse linear with float32 activations for up to four rows: float32, bfloat16 or int8 weights, sums in float32.

One warp per output reads its weights in one stream of 16-byte loads, and gathers x by the columns of their blocks; without a
pattern that is compressed rows, number by number. Each program looks at the whole of its rows of x, which lie in L2: a row that
is not finite gives NaN.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl

from rtaccel.core.registry import Impl, Prepared, register_impl
from rtaccel.core.stage import Problem, Stage
from rtaccel.kernels._gpu.triton_epilogue import Epilogue, epilogue_of_rows
from rtaccel.kernels._gpu.triton_spec import WIDE_LOAD, Specialisation, Tiling, power_of_two
from rtaccel.kernels.linear.triton.mixed import INFINITY_BITS
from rtaccel.kernels.sparse_linear.triton.rows import (
    MAX_ROWS,
    KernelConfig,
    launcher,
    more_than_few,
    operands_of,
    pack,
    problem_of_size,
    unsupported,
)
from rtaccel.kernels.sparse_linear.triton.walk import streams, take


@triton.jit
def finite_row(x_row, K: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_W: tl.constexpr):
    """Whether all K numbers of a row of x are finite; by the bits, whose order is that of the numbers. The tile's rows share the
    work."""
    WIDE: tl.constexpr = BLOCK_N * BLOCK_W
    at = tl.arange(0, BLOCK_N)[:, None] * BLOCK_W + tl.arange(0, BLOCK_W)[None, :]
    bits = tl.zeros((BLOCK_N, BLOCK_W), tl.int32)
    for k0 in range(0, K, WIDE):
        x = tl.load(x_row + k0 + at, mask=k0 + at < K, other=0.0)  # [BLOCK_N, BLOCK_W]
        bits = tl.maximum(bits, x.to(tl.int32, bitcast=True) & 0x7FFFFFFF)
    return tl.max(tl.max(bits, 1), 0) < INFINITY_BITS


@triton.jit(do_not_specialize=["rows", "y_zero_point"])
def sparse_gemv_float_kernel(
    x_ptr, weight_ptr, columns_ptr, starts_ptr,
    y_ptr, multiplier_ptr, offset_ptr, compensation_ptr, row_scale_ptr, parameter, y_inv_scale, y_zero_point, rows,
    N: tl.constexpr, ACTIVATION: tl.constexpr, INT8_OUT: tl.constexpr, ASM: tl.constexpr, K: tl.constexpr,
    B: tl.constexpr, C: tl.constexpr, UNIT: tl.constexpr, ROWS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_W: tl.constexpr,
):  # fmt: skip
    """B outputs share their columns; a block has C weights of each, UNIT are a unit of the stream."""
    m = tl.program_id(0).to(tl.int64) * ROWS
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    zero = tl.zeros((BLOCK_N, BLOCK_W), tl.int32)
    nothing = tl.zeros((BLOCK_N, BLOCK_W), tl.float32)
    x_row = x_ptr + m * K
    weights, columns, length = streams(weight_ptr, columns_ptr, starts_ptr, n, N, K, B, C, UNIT)

    accs = (nothing,) * ROWS
    for w0 in range(0, tl.max(length), BLOCK_W):
        w, x_at, inside = take(weights, columns, w0, length, K, C, BLOCK_N, BLOCK_W)
        sums = ()
        for r in tl.static_range(ROWS):
            within = inside & (m + zero + r < rows)
            x = tl.load(x_row + r * K + x_at, mask=within, other=0.0)  # [BLOCK_N, BLOCK_W]
            sums = sums + (tl.fma(w.to(tl.float32), x, accs[r]),)  # noqa: RUF005
        accs = sums

    totals = ()
    for r in tl.static_range(ROWS):
        total = tl.sum(accs[r], 1)[None, :]
        if m + r < rows:
            total = tl.where(finite_row(x_row + r * K, K, BLOCK_N, BLOCK_W), total, float("nan"))
        totals = totals + (total,)  # noqa: RUF005
    epilogue_of_rows(totals, m, rows, n[None, :], None, Epilogue(
        y_ptr, multiplier_ptr, offset_ptr, compensation_ptr, row_scale_ptr, None, parameter, y_inv_scale, y_zero_point, N,
        ACTIVATION, INT8_OUT, ASM,
    ), ROWS)  # fmt: skip


def supports(problem: Problem) -> str | None:
    reason = unsupported(problem, ("window", "blocks"))
    if reason is None and problem.in_dtypes[0] != "float32":
        reason = f"reads float32 activations, not {problem.in_dtypes[0]}"
    return reason or more_than_few(problem)


def specialize(config: KernelConfig, rows: int) -> Specialisation:
    """One warp per output, up to eight in a program; a lane takes eight weights in a step, four where there are several sums or
    the weights are float32. Not measured on a card."""
    outputs, m = power_of_two(config.n, 1, 8), power_of_two(rows, 1, MAX_ROWS)
    each = 8 if m == 1 and config.weight != "float32" else 4
    tile = Tiling(block_m=m, block_n=outputs, block_k=32 * each, num_warps=outputs)
    return Specialisation(
        name=f"sparse_gemv_float_M{m}_{config}",
        kernel=sparse_gemv_float_kernel,
        signature=config.signature(config.where),
        constants={
            **config.constants, "B": config.b, "C": config.c, "UNIT": config.unit, "ROWS": m, "BLOCK_N": outputs,
            "BLOCK_W": tile.block_k,
        },
        tiling=tile,
    )  # fmt: skip


def prepare(stage: Stage, problem: Problem) -> Prepared:
    """x float32 [M, K] -> y [M, N]; any M, best for those of the problem."""
    config = KernelConfig.of_blocks(stage, problem, 1, 1)
    there, scalars = operands_of(stage, config, problem.device, lambda weight: pack(weight, config))
    return launcher(config, specialize(config, problem.matrix_rows), there, scalars, torch.float32)


def specializations() -> Iterator[Specialisation]:
    """The forms that are compiled and held to a budget without a GPU."""
    for kind, k, n, rows, (b, c), activation in (
        ("float32", 4096, 256, 1, (1, 1), "none"),
        ("w8a16", 1024, 1024, 4, (16, 16), "relu"),
    ):
        problem = problem_of_size(k, n, kind, "window", rows, activation=activation)
        yield specialize(KernelConfig.of(problem, b, c), rows).with_requirements(WIDE_LOAD)


register_impl(Impl("sparse_linear", "triton_gemv_float", "triton", 20, supports, prepare))
