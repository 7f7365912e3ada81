"""Linear on the tensor cores for every weight format: int8, int4 in groups, bfloat16, float8; any M, N and K.

Weights are stored tile after tile in the order in which a program reads them, padded with zeros: the loads are whole,
16 bytes wide and one stream per program. What x is multiplied as:

weights     x          product                     sum
int8        int8       int8 x int8                 int32, exact
int8        float32    bfloat16 x bfloat16         float32; -127..127 are exact in bfloat16
bfloat16    float32    bfloat16 x bfloat16         float32
int4        int8       int8 x int8                 int32 in a group, exact; groups in float32 (fp16 x fp16 with exact
                                                   float32 sums where a group is shorter than the tensor core's step)
int4        float32    bfloat16 x bfloat16         float32, a scale per group
float8      float32    float8 x float8             float32; x rounded to e4m3 with a scale per row

With float32 x and int8 products ("int8", "static") the rows are quantized here: every program finds max |x| of its rows, or
whether they are finite, x lying in L2, and rounds what it reads. So a layer is one launch.

int4: a byte holds two weights of neighboring groups, each left in the upper half of a byte, as 16 q: `w << 4` and
`w & 0xF0` are then int8 numbers at once, and the 16 is taken out of the scale, which is exact. The two scales of a pair
of groups are one 32-bit word of two bfloat16.

A layer of few tiles is cut along K (triton/split.py).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from rtaccel.kernels._gpu.triton_device import to_int8
from rtaccel.kernels._gpu.triton_epilogue import Epilogue
from rtaccel.kernels.linear.triton.split import split_epilogue

TINY = tl.constexpr(2.0**-100)
INFINITY_BITS = tl.constexpr(0x7F800000)


class XRows(NamedTuple):
    """Rows m of x [M, K] and what they are multiplied as.

    inverse [m] or one number, keep [m]: where ROWS says that they are quantized here. DOT: the type that the tensor cores take.
    """

    x_ptr: Any
    m: Any
    in_m: Any
    inverse: Any
    zero_point: Any
    keep: Any
    K: Any
    ROWS: Any
    DOT: Any
    ASM: Any


@triton.jit
def row_peaks(x_ptr, m, in_m, K: tl.constexpr, BLOCK_K: tl.constexpr):
    """The bits of max |x| of rows: without the sign their order is that of the numbers, with NaN above infinity."""
    k = tl.arange(0, BLOCK_K)
    bits = tl.zeros((m.shape[0], BLOCK_K), tl.int32)
    for k0 in range(0, K, BLOCK_K):
        at = k0 + k[None, :]
        x = tl.load(x_ptr + m[:, None].to(tl.int64) * K + at, mask=in_m[:, None] & (at < K), other=0.0)  # [m, BLOCK_K]
        bits = tl.maximum(bits, x.to(tl.int32, bitcast=True) & 0x7FFFFFFF)
    return tl.max(bits, 1)


@triton.jit
def row_scales(x_ptr, m, in_m, LIMIT: tl.constexpr, K: tl.constexpr, BLOCK_K: tl.constexpr):
    """(inverse, scale, keep) of rows of float32 x, as `quantize` has them: inverse = LIMIT / max |x|, scale its opposite."""
    peak_bits = row_peaks(x_ptr, m, in_m, K, BLOCK_K)
    finite = peak_bits < INFINITY_BITS
    keep = finite & (peak_bits.to(tl.float32, bitcast=True) >= TINY)
    safe = tl.where(keep, peak_bits.to(tl.float32, bitcast=True), 1.0)
    limit = tl.full(safe.shape, LIMIT, tl.float32)
    scale = tl.where(keep, tl.div_rn(safe, limit), tl.where(finite, 1.0, float("nan")))
    return tl.div_rn(limit, safe), scale, keep


@triton.jit
def _load_x(x, at):
    """Columns `at` of rows of x as the tensor cores take them, [m, at]."""
    there = x.in_m[:, None] & (at < x.K)[None, :]
    tile = tl.load(x.x_ptr + x.m[:, None].to(tl.int64) * x.K + at[None, :], mask=there, other=0)  # [m, at]
    if x.ROWS == "static":
        tile = tl.where(x.keep[:, None], to_int8(tile * x.inverse, x.zero_point), 0).to(tl.int8)
    elif x.ROWS == "int8":
        tile = tl.where(x.keep[:, None], tl.maximum(to_int8(tile * x.inverse[:, None], 0), -127), 0).to(tl.int8)
    elif x.ROWS == "float8":
        tile = tl.where(x.keep[:, None], tile * x.inverse[:, None], 0.0)
    if x.DOT == "fp8":
        tile = tile.to(tl.float8e4nv) if x.ASM else _nearest_e4m3(tile)
    return as_operand(tile, x.DOT, x.ASM)


@triton.jit
def _nearest_e4m3(x):
    """float32 |x| <= 448 rounded to the numbers of e4m3, ties to even; for the interpreter, whose cast truncates."""
    bits = x.to(tl.int32, bitcast=True)
    normal = ((bits + 0x7FFFF + ((bits >> 20) & 1)) & -0x100000).to(tl.float32, bitcast=True)
    return tl.where(tl.abs(x) < 2.0**-6, (x + 24576.0) - 24576.0, normal)


@triton.jit
def as_operand(t, DOT: tl.constexpr, ASM: tl.constexpr):
    """Numbers as a type the tensor cores take. The interpreter multiplies the bits of bfloat16 as whole numbers, and truncates
    where the card rounds, so there the rounded numbers stay float32: the same products."""
    if DOT == "fp16":
        t = t.to(tl.float16)
    elif DOT == "bf16" and ASM:
        t = t.to(tl.bfloat16)
    elif DOT == "bf16":
        t = _nearest_bf16(t.to(tl.float32))
    elif DOT == "fp8" and not ASM:
        t = t.to(tl.float32)
    return t


@triton.jit
def _nearest_bf16(x):
    """float32 rounded to the numbers of bfloat16, ties to even; a NaN stays one."""
    bits = x.to(tl.int32, bitcast=True)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) & -0x10000).to(tl.float32, bitcast=True)
    return tl.where(x == x, rounded, x)


@triton.jit
def _sum_dense(x, weight_ptr, SPLIT: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr):
    """[BLOCK_M, BLOCK_N]: this program's part of the sums."""
    STEPS: tl.constexpr = (x.K + BLOCK_K - 1) // BLOCK_K
    EACH: tl.constexpr = (STEPS + SPLIT - 1) // SPLIT
    part = tl.program_id(2)
    k = tl.arange(0, BLOCK_K)
    tile = tl.arange(0, BLOCK_N)[:, None] * BLOCK_K + k[None, :]
    w_ptr = weight_ptr + (tl.program_id(1).to(tl.int64) * (EACH * SPLIT) + part * EACH) * (BLOCK_N * BLOCK_K)
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.int32 if x.DOT == "int8" else tl.float32)
    for step in range(EACH):
        x_tile = _load_x(x, (part * EACH + step) * BLOCK_K + k)  # [BLOCK_M, BLOCK_K]
        w = as_operand(tl.load(w_ptr + step * (BLOCK_N * BLOCK_K) + tile), x.DOT, x.ASM)  # [BLOCK_N, BLOCK_K]
        acc = tl.dot(x_tile, tl.trans(w), acc, out_dtype=acc.dtype)  # [BLOCK_M, BLOCK_N]
    return acc


@triton.jit
def _sum_int4(
    x, weight_ptr, scale_ptr, GROUP: tl.constexpr, SPLIT: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):  # fmt: skip
    """float32 [BLOCK_M, BLOCK_N]: this program's part of the sums."""
    PAIRS: tl.constexpr = (x.K + 2 * GROUP - 1) // (2 * GROUP)
    EACH: tl.constexpr = (PAIRS + SPLIT - 1) // SPLIT
    PIECES: tl.constexpr = GROUP // BLOCK_K
    part = tl.program_id(2)
    k, n = tl.arange(0, BLOCK_K), tl.arange(0, BLOCK_N)
    tile = n[:, None] * BLOCK_K + k[None, :]
    first = tl.program_id(1).to(tl.int64) * (EACH * SPLIT) + part * EACH
    w_ptr = weight_ptr + first * (BLOCK_N * GROUP)
    s_ptr = scale_ptr + first * BLOCK_N + n
    nothing = tl.zeros((BLOCK_M, BLOCK_N), tl.int32 if x.DOT == "int8" else tl.float32)
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for pair in range(EACH):
        low, high = nothing, nothing
        for piece in tl.static_range(PIECES):
            at = (part * EACH + pair) * (2 * GROUP) + piece * BLOCK_K + k
            w = tl.load(
                w_ptr + (pair * PIECES + piece) * (BLOCK_N * BLOCK_K) + tile
            )  # [BLOCK_N, BLOCK_K], two weights each
            w_low, w_high = (
                as_operand((w << 4).to(tl.int8), x.DOT, x.ASM),
                as_operand((w & -16).to(tl.int8), x.DOT, x.ASM),
            )
            x_low, x_high = _load_x(x, at), _load_x(x, at + GROUP)  # [BLOCK_M, BLOCK_K]
            low = tl.dot(x_low, tl.trans(w_low), low, out_dtype=nothing.dtype)  # [BLOCK_M, BLOCK_N]
            high = tl.dot(x_high, tl.trans(w_high), high, out_dtype=nothing.dtype)  # [BLOCK_M, BLOCK_N]
        scales = tl.load(s_ptr + pair * BLOCK_N)  # [BLOCK_N], two scales each
        acc += low.to(tl.float32) * (scales << 16).to(tl.float32, bitcast=True)[None, :]
        acc += high.to(tl.float32) * (scales & -65536).to(tl.float32, bitcast=True)[None, :]
    return acc


@triton.jit(do_not_specialize=["rows", "y_zero_point", "x_zero_point"])
def mixed_kernel(
    x_ptr, weight_ptr, scale_ptr, work_ptr, count_ptr,
    y_ptr, multiplier_ptr, offset_ptr, compensation_ptr, row_scale_ptr, residual_ptr, parameter, y_inv_scale, y_zero_point, rows,
    x_inv_scale, x_zero_point,
    N: tl.constexpr, ACTIVATION: tl.constexpr, INT8_OUT: tl.constexpr, ASM: tl.constexpr, K: tl.constexpr,
    ROWS: tl.constexpr, DOT: tl.constexpr, GROUP: tl.constexpr, SPLIT: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    in_m = m < rows
    inverse, row_scale, keep = 1.0, None, True
    if ROWS == "int8":
        inverse, row_scale, keep = row_scales(x_ptr, m, in_m, 127.0, K, BLOCK_K)
    elif ROWS == "float8":
        inverse, row_scale, keep = row_scales(x_ptr, m, in_m, 448.0, K, BLOCK_K)
    elif ROWS == "static":
        inverse = x_inv_scale
        keep = row_peaks(x_ptr, m, in_m, K, BLOCK_K) < INFINITY_BITS
        if not INT8_OUT:
            row_scale = tl.where(keep, 1.0, float("nan"))
    elif row_scale_ptr is not None:
        row_scale = tl.load(row_scale_ptr + m, mask=in_m, other=0.0)  # [BLOCK_M]

    if GROUP:
        acc = _sum_int4(
            XRows(x_ptr, m, in_m, inverse, x_zero_point, keep, K, ROWS, DOT, ASM), weight_ptr, scale_ptr, GROUP, SPLIT, BLOCK_M,
            BLOCK_N, BLOCK_K,
        )  # fmt: skip
    else:
        acc = _sum_dense(
            XRows(x_ptr, m, in_m, inverse, x_zero_point, keep, K, ROWS, DOT, ASM),
            weight_ptr,
            SPLIT,
            BLOCK_M,
            BLOCK_N,
            BLOCK_K,
        )

    split_epilogue(acc, m, in_m, n, row_scale, work_ptr, count_ptr, Epilogue(
        y_ptr, multiplier_ptr, offset_ptr, compensation_ptr, None, residual_ptr, parameter, y_inv_scale, y_zero_point, N,
        ACTIVATION, INT8_OUT, ASM,
    ), SPLIT)  # fmt: skip
