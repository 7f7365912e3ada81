"""Sparse linear with float32 activations for up to four rows: float32, bfloat16 or int8 weights, sums in float32.

A program reads the weights of eight outputs, each in one stream of 16-byte loads, and gathers x by the columns of their blocks.
Without a pattern that is number by number, from the shared memory where the program holds its rows of x. The numbers are packed
so that few lanes of a warp meet in a bank. A program looks at all of its rows of x: a row that is not finite gives NaN. Blocks of
several outputs are computed by tall.py.
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
from rtaccel.kernels.sparse_linear.triton import tall
from rtaccel.kernels.sparse_linear.triton.pack import pack
from rtaccel.kernels.sparse_linear.triton.rows import (
    MAX_ROWS,
    OUTPUTS,
    KernelConfig,
    launcher,
    more_than_few,
    operands_of,
    problem_of_size,
    unsupported,
)
from rtaccel.kernels.sparse_linear.triton.walk import finite_row, held_floats, streams, take, x_words

HELD_NUMBERS = 32
"""Of x, for each thread, at most."""


@triton.jit(do_not_specialize=["rows", "y_zero_point"])
def sparse_gemv_float_kernel(
    x_ptr, weight_ptr, columns_ptr, starts_ptr,
    y_ptr, multiplier_ptr, offset_ptr, compensation_ptr, row_scale_ptr, parameter, y_inv_scale, y_zero_point, rows,
    N: tl.constexpr, ACTIVATION: tl.constexpr, INT8_OUT: tl.constexpr, ASM: tl.constexpr, K: tl.constexpr,
    C: tl.constexpr, UNIT: tl.constexpr, LEAD: tl.constexpr, HELD: tl.constexpr, ROWS: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_W: tl.constexpr,
):  # fmt: skip
    """A block has C weights, UNIT are a unit of the stream, LEAD units a whole number of lines. HELD: numbers of a row of x that
    the program holds, 0 for none."""
    m = tl.program_id(0).to(tl.int64) * ROWS
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    zero = tl.zeros((BLOCK_N, BLOCK_W), tl.int32)
    nothing = tl.zeros((BLOCK_N, BLOCK_W), tl.float32)
    x_row = x_ptr + m * K
    weights, columns, begin, end = streams(weight_ptr, columns_ptr, starts_ptr, n, N, K, C, UNIT, LEAD)
    held, finite = held_floats(x_row, m, rows, ROWS, K, HELD)

    accs = (nothing,) * ROWS
    for w0 in range(0, tl.max(end), BLOCK_W):
        w, x_at, inside = take(weights, columns, w0, begin, end, K, C, BLOCK_N, BLOCK_W)
        sums = ()
        for r in tl.static_range(ROWS):
            within = inside & (m + zero + r < rows)
            x = x_words(held[r], x_row + r * K, x_at, within, HELD)  # [BLOCK_N, BLOCK_W]
            sums = sums + (tl.fma(w.to(tl.float32), x, accs[r]),)  # noqa: RUF005
        accs = sums

    totals = ()
    for r in tl.static_range(ROWS):
        total = tl.sum(accs[r], 1)[None, :]
        if HELD:
            total = tl.where(finite[r][:, None], total, float("nan"))
        elif m + r < rows:
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
    """Up to eight outputs and as many warps in a program. x is held where that is up to 32 registers of a thread; then a step is
    an eighth of a row. Else a lane takes eight weights, or four of several rows. Not measured on a card."""
    if config.together > 1:
        return tall.specialize(config, rows)
    outputs, m = power_of_two(config.n, 1, OUTPUTS), power_of_two(rows, 1, MAX_ROWS)
    held = power_of_two(config.k, 32, 1 << 16) if config.c == 1 else 0
    held = held if held * m <= HELD_NUMBERS * 32 * outputs else 0
    each = power_of_two(config.k // 256, 4, 16) if held else 8 if m == 1 and config.weight != "float32" else 4
    tile = Tiling(block_m=m, block_n=outputs, block_k=32 * each, num_warps=outputs)
    return Specialisation(
        name=f"sparse_gemv_float_M{m}_{config}",
        kernel=sparse_gemv_float_kernel,
        signature=config.signature(config.where),
        constants={
            **config.constants, "C": config.c, "UNIT": config.unit, "LEAD": config.lead, "HELD": held, "ROWS": m,
            "BLOCK_N": outputs, "BLOCK_W": tile.block_k,
        },
        tiling=tile,
    )  # fmt: skip


def prepare(stage: Stage, problem: Problem) -> Prepared:
    """x float32 [M, K] -> y [M, N]; any M, best for those of the problem."""
    config = KernelConfig.of_blocks(stage, problem, 1, 1)
    spec = specialize(config, problem.matrix_rows)
    each = config.gathered(spec.constants["BLOCK_W"]) if config.together == 1 and spec.constants["HELD"] else 0
    there, scalars = operands_of(stage, config, problem.device, lambda weight: pack(weight, config, each=each))
    return launcher(config, spec, there, scalars, torch.float32)


def specializations() -> Iterator[Specialisation]:
    """The forms that are compiled and held to a budget without a GPU."""
    for kind, k, n, rows, (b, c), activation in (
        ("float32", 4096, 256, 1, (1, 1), "none"),
        ("w8a16", 1024, 1024, 4, (16, 16), "relu"),
    ):
        problem = problem_of_size(k, n, kind, "window", rows, activation=activation)
        yield specialize(KernelConfig.of(problem, b, c), rows).with_requirements(WIDE_LOAD)


register_impl(Impl("sparse_linear", "triton_gemv_float", "triton", 20, supports, prepare))
