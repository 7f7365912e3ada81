"""W8A8 linear for up to eight rows: dp4a on packed words, one warp per output, the weights read once.

For so few rows the tensor cores have nothing to do: the time is the reading of the weights. x and weight
are seen as int32 words of four bytes. A tile is [block_n outputs, block_k / 4 words] with one warp per output, so a
lane reads 16 bytes of weights at a time, multiplies them with four dp4a, and one warp-wide sum ends the row.
x is loaded in the shape of the weight tile: a row of x that is broadcast afterwards would cost a layout
conversion through shared memory in every step.

Weight rows are padded with zeros to 16 bytes, so that every row starts aligned.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl

from rtaccel.core.registry import Impl, Prepared, register_impl
from rtaccel.core.stage import Problem, Stage
from rtaccel.kernels._gpu.triton_device import dot4
from rtaccel.kernels._gpu.triton_epilogue import Epilogue, epilogue_of_rows, sums_of_rows
from rtaccel.kernels._gpu.triton_rows import MAX_ROWS, too_many_rows
from rtaccel.kernels._gpu.triton_spec import FUSED, GPU_DP4A, WIDE_LOAD, Specialisation, Tiling, power_of_two
from rtaccel.kernels.linear import contract
from rtaccel.kernels.linear.triton.w8a8 import KernelConfig, Operands, launcher, unsupported

WORD = 4
INSTRUCTIONS_PER_ROW = 6
"""Of a lane for 16 bytes of weights: a load of x, four dp4a and a mask. Counted in the code."""


@triton.jit(do_not_specialize=["rows", "y_zero_point"])
def gemv_kernel(
    x_ptr, weight_ptr,
    y_ptr, multiplier_ptr, offset_ptr, compensation_ptr, row_scale_ptr, parameter, y_inv_scale, y_zero_point, rows,
    N: tl.constexpr, ACTIVATION: tl.constexpr, INT8_OUT: tl.constexpr, ASM: tl.constexpr, K: tl.constexpr,
    ROWS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_W: tl.constexpr,
):  # fmt: skip
    X_WORDS: tl.constexpr = K // 4
    W_WORDS: tl.constexpr = (K + 15) // 16 * 4
    m = tl.program_id(0).to(tl.int64) * ROWS
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    word = tl.arange(0, BLOCK_W)[None, :]
    in_n = n < N
    w_tile = weight_ptr + n[:, None].to(tl.int64) * W_WORDS + word
    x_tile = x_ptr + m * X_WORDS + word + tl.zeros((BLOCK_N, BLOCK_W), tl.int32)

    zero = tl.zeros((BLOCK_N, BLOCK_W), tl.int32)
    accs = (zero,) * ROWS
    for w0 in range(0, X_WORDS, BLOCK_W):
        in_k = word + zero < X_WORDS - w0
        w = tl.load(w_tile + w0, mask=in_n[:, None] & in_k, other=0)  # [BLOCK_N, BLOCK_W]
        sums = ()
        for r in tl.static_range(ROWS):
            within = in_k & (m + zero + r < rows)
            x = tl.load(x_tile + r * X_WORDS + w0, mask=within, other=0)  # [BLOCK_N, BLOCK_W]
            sums = sums + (dot4(w, x, accs[r], ASM),)  # noqa: RUF005
        accs = sums

    epilogue_of_rows(sums_of_rows(accs, ROWS), m, rows, n, None, Epilogue(
        y_ptr, multiplier_ptr, offset_ptr, compensation_ptr, row_scale_ptr, None, parameter, y_inv_scale, y_zero_point, N,
        ACTIVATION, INT8_OUT, ASM,
    ), ROWS)  # fmt: skip


def supports(problem: Problem) -> str | None:
    reason = unsupported(problem)
    if reason is not None:
        return reason
    reason = too_many_rows(problem.matrix_rows, problem.in_widths[0] * problem.out_widths[0], INSTRUCTIONS_PER_ROW)
    if reason is not None:
        return reason
    if problem.in_widths[0] % WORD or not problem.in_widths[0]:
        return f"reads x in words of 4 bytes: K must be a positive multiple of 4, not {problem.in_widths[0]}"
    return None


def tiling(problem: Problem) -> Tiling:
    """One warp per output, up to eight in a program, four words per lane and step. Not measured on a card."""
    outputs = power_of_two(problem.out_widths[0], 1, 8)
    words = power_of_two(problem.in_widths[0] // WORD, 32, 128)
    rows = power_of_two(problem.matrix_rows, 1, MAX_ROWS)
    return Tiling(block_m=rows, block_n=outputs, block_k=WORD * words, num_warps=outputs)


def specialize(problem: Problem) -> Specialisation:
    config, tile = KernelConfig.of(problem), tiling(problem)
    return Specialisation(
        name=f"linear_gemv_M{tile.block_m}_{config}",
        kernel=gemv_kernel,
        signature=config.signature("*i32"),
        constants={
            **config.constants, "ROWS": tile.block_m, "BLOCK_N": tile.block_n, "BLOCK_W": tile.block_k // WORD,
        },
        tiling=tile,
    )  # fmt: skip


def prepare(stage: Stage, problem: Problem) -> Prepared:
    """x int8 [M, K] and, with dynamic rows, row_scale float32 [M, 1] -> y [M, N]; any M, best for those of the problem."""
    ops = Operands.of(stage, problem)
    return launcher(ops, specialize(problem), ops.weight.view(torch.int32))


def specializations() -> Iterator[Specialisation]:
    """The forms that are compiled and held to a budget without a GPU."""
    for (k, n, scheme, activation, out), rows, forbids in (
        ((640, 128, "static", "relu", "int8"), 1, (FUSED,)),
        ((1024, 1024, "dynamic", "gelu", "float32"), 1, ()),
        ((1024, 1024, "static", "none", "float32"), 4, (FUSED,)),
        ((1024, 1024, "static", "relu", "int8"), 8, (FUSED,)),
    ):
        stage = contract.make_stage(k, n, scheme, activation, out=out)
        yield specialize(Problem.of(stage, rows, "cuda")).with_requirements(GPU_DP4A, WIDE_LOAD, forbids=forbids)


register_impl(Impl("linear", "triton_gemv", "triton", 20, supports, prepare))
