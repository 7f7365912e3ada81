"""W4A16 and W8A16 for many rows of large layers: 128 outputs a program, which share K with few others.

`mixed_kernel` has a program for each 32 outputs, and each of them reads all of x. For 64 rows of a 4096 x 4096 layer that is
134 MB of float32 from L2, beside 8 MB of weights. Here 32 tiles of outputs read x, as bfloat16 16.8 MB. Up to 32 rows a
program makes bfloat16 of the x that it reads; for more `rows_kernel` does it before, once.

The weights are the first factor, y^T = W x^T. Tensor cores of compute capability 9.0 take it from registers and have rows of
64, so a weight goes from shared memory to the registers of its thread, becomes bfloat16 there (_gpu/triton_bfloat16.py), and
is multiplied with as many rows of x as there are, 16 at least. Nothing that was made of weights goes through shared memory.

Weights lie step after step, as a program reads them, [outputs, elements]. An element is 16 bits and has four int4 or two int8
numbers: number j of element c is at j BLOCK_K + c of the step's k. Sums are float32; those of a group are scaled in float32.
"""

from __future__ import annotations

import triton
import triton.language as tl

from rtaccel.kernels._gpu.triton_bfloat16 import bfloat16_of, worth
from rtaccel.kernels._gpu.triton_epilogue import Epilogue
from rtaccel.kernels.linear.triton.mixed import as_operand
from rtaccel.kernels.linear.triton.split import split_epilogue


@triton.jit
def _columns(x_rows, at, in_m, ASM: tl.constexpr):
    """Numbers `at` of each row, as the second factor: [at, rows]. in_m: None where x is bfloat16, whose rows fill the tile."""
    if in_m is None:
        x = tl.load(x_rows[None, :] + at[:, None])
    else:
        x = tl.load(x_rows[None, :] + at[:, None], mask=in_m[None, :], other=0.0)
    return as_operand(x, "bf16", ASM)


@triton.jit(do_not_specialize=["rows", "y_zero_point"])
def wide_kernel(
    x_ptr, weight_ptr, scale_ptr, work_ptr, count_ptr,
    y_ptr, multiplier_ptr, offset_ptr, residual_ptr, parameter, y_inv_scale, y_zero_point, rows,
    N: tl.constexpr, ACTIVATION: tl.constexpr, INT8_OUT: tl.constexpr, ASM: tl.constexpr, K: tl.constexpr, BITS: tl.constexpr,
    SCALES: tl.constexpr, CAST: tl.constexpr, SPLIT: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):  # fmt: skip
    """x float32 [rows, K], or with CAST bfloat16, rows whole tiles. K: of x, whole steps of 16 / BITS * BLOCK_K numbers.

    SCALES: of an output in a step, 1, 2 or 4, as many bfloat16 in one word; 0 for int8.
    """
    NUMBERS: tl.constexpr = 16 // BITS
    STEP: tl.constexpr = NUMBERS * BLOCK_K
    STEPS: tl.constexpr = K // STEP
    EACH: tl.constexpr = STEPS // SPLIT
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    in_m = m < rows
    loaded = None if CAST else in_m
    part = tl.program_id(2)
    first = tl.program_id(1).to(tl.int64) * STEPS + part * EACH
    w_tile = weight_ptr + first * (BLOCK_N * BLOCK_K) + (n[:, None] * BLOCK_K + k[None, :])
    x_rows = x_ptr + m.to(tl.int64) * K + part * (EACH * STEP)
    nothing = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
    acc = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
    if SCALES:
        s_tile = scale_ptr + first * BLOCK_N + n
        scales = tl.load(s_tile)  # [BLOCK_N], of the step; those of the next are on their way
    for step in range(EACH):
        w = tl.load(w_tile + step * (BLOCK_N * BLOCK_K))  # [BLOCK_N, BLOCK_K]
        if SCALES:
            coming = tl.load(s_tile + tl.minimum(step + 1, EACH - 1) * BLOCK_N)
            own = nothing
            for j in tl.static_range(NUMBERS):
                x = _columns(x_rows + (step * STEP + j * BLOCK_K), k, loaded, ASM)  # [BLOCK_K, BLOCK_M]
                own = tl.dot(bfloat16_of(w, j, BITS, ASM), x, own)  # [BLOCK_N, BLOCK_M]
                if (j + 1) % (NUMBERS // SCALES) == 0:
                    bits = (scales >> (16 * (j // (NUMBERS // SCALES)))).to(tl.int32) << 16
                    acc = tl.fma(own, bits.to(tl.float32, bitcast=True)[:, None] + nothing, acc)
                    own = nothing
            scales = coming
        else:
            for j in tl.static_range(NUMBERS):
                x = _columns(x_rows + (step * STEP + j * BLOCK_K), k, loaded, ASM)  # [BLOCK_K, BLOCK_M]
                acc = tl.dot(bfloat16_of(w, j, BITS, ASM), x, acc)  # [BLOCK_N, BLOCK_M]

    split_epilogue(tl.trans(acc * worth(BITS)), m, in_m, tl.program_id(1) * BLOCK_N + n, None, work_ptr, count_ptr, Epilogue(
        y_ptr, multiplier_ptr, offset_ptr, None, None, residual_ptr, parameter, y_inv_scale, y_zero_point, N, ACTIVATION,
        INT8_OUT, ASM,
    ), SPLIT)  # fmt: skip


@triton.jit(do_not_specialize=["rows"])
def rows_kernel(x_ptr, y_ptr, rows, K: tl.constexpr, PADDED: tl.constexpr, ASM: tl.constexpr, BLOCK_K: tl.constexpr):
    """A row of float32 x [rows, K] as bfloat16 [rows, PADDED], zeros behind it: program (row, columns)."""
    row = tl.program_id(0).to(tl.int64)
    k = tl.program_id(1) * BLOCK_K + tl.arange(0, BLOCK_K)
    inside = (k < K) & (row + k * 0 < rows)  # a tile, because the interpreter of triton 3.9 widens a scalar condition
    x = tl.load(x_ptr + row * K + k, mask=inside, other=0.0)  # [BLOCK_K]
    tl.store(y_ptr + row * PADDED + k, as_operand(x, "bf16", ASM).to(tl.bfloat16), mask=k < PADDED)
