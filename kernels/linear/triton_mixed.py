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

With float32 x and int8 products ("rows") the rows are quantized here, in front: every program finds max |x| of its rows,
x lying in L2, and rounds what it reads. So a dynamic layer is one launch.

int4: a byte holds two weights of neighboring groups, each left in the upper half of a byte, as 16 q: `w << 4` and
`w & 0xF0` are then int8 numbers at once, and the 16 is taken out of the scale, which is exact. The two scales of a pair
of groups are one 32-bit word of two bfloat16.

A layer of few tiles is cut along K (triton_split.py).
"""

from __future__ import annotations

import triton
import triton.language as tl

from rtaccel.kernels._gpu.triton_device import activate, multiply_rn, to_int8
from rtaccel.kernels.linear.triton_split import put_part, sum_parts

TINY = tl.constexpr(2.0**-100)
INFINITY_BITS = tl.constexpr(0x7F800000)


@triton.jit
def row_scales(x_ptr, m, in_m, LIMIT: tl.constexpr, K: tl.constexpr, BLOCK_K: tl.constexpr):
    """(inverse, scale, keep) of rows of float32 x, as `quantize` has them: inverse = LIMIT / max |x|, scale its opposite.

    The maximum is taken on the bits: without the sign their order is that of the numbers, with NaN above infinity.
    """
    k = tl.arange(0, BLOCK_K)
    bits = tl.zeros((m.shape[0], BLOCK_K), tl.int32)
    for k0 in range(0, K, BLOCK_K):
        at = k0 + k[None, :]
        x = tl.load(x_ptr + m[:, None].to(tl.int64) * K + at, mask=in_m[:, None] & (at < K), other=0.0)
        bits = tl.maximum(bits, x.to(tl.int32, bitcast=True) & 0x7FFFFFFF)
    peak_bits = tl.max(bits, 1)
    finite = peak_bits < INFINITY_BITS
    keep = finite & (peak_bits.to(tl.float32, bitcast=True) >= TINY)
    safe = tl.where(keep, peak_bits.to(tl.float32, bitcast=True), 1.0)
    limit = tl.full(safe.shape, LIMIT, tl.float32)
    scale = tl.where(keep, tl.div_rn(safe, limit), tl.where(finite, 1.0, float("nan")))
    return tl.div_rn(limit, safe), scale, keep


@triton.jit
def _load_x(
    x_ptr, m, in_m, at, inverse, keep, K: tl.constexpr, ROWS: tl.constexpr, DOT: tl.constexpr, ASM: tl.constexpr
):
    """A tile of x as the tensor cores take it; `at` are its columns."""
    x = tl.load(x_ptr + m[:, None].to(tl.int64) * K + at[None, :], mask=in_m[:, None] & (at < K)[None, :], other=0)
    if ROWS == "int8":
        x = tl.where(keep[:, None], tl.maximum(to_int8(x * inverse[:, None], 0), -127), 0).to(tl.int8)
    elif ROWS == "float8":
        x = tl.where(keep[:, None], x * inverse[:, None], 0.0)
    if DOT == "fp8":
        x = x.to(tl.float8e4nv) if ASM else _nearest_e4m3(x)
    return as_operand(x, DOT, ASM)


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
def _sum_dense(
    x_ptr, weight_ptr, m, in_m, inverse, keep, part, K: tl.constexpr, ROWS: tl.constexpr, DOT: tl.constexpr,
    SPLIT: tl.constexpr, ASM: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):  # fmt: skip
    STEPS: tl.constexpr = (K + BLOCK_K - 1) // BLOCK_K
    EACH: tl.constexpr = (STEPS + SPLIT - 1) // SPLIT
    k = tl.arange(0, BLOCK_K)
    tile = tl.arange(0, BLOCK_N)[:, None] * BLOCK_K + k[None, :]
    w_ptr = weight_ptr + (tl.program_id(1).to(tl.int64) * (EACH * SPLIT) + part * EACH) * (BLOCK_N * BLOCK_K)
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.int32 if DOT == "int8" else tl.float32)
    for step in range(EACH):
        x = _load_x(x_ptr, m, in_m, (part * EACH + step) * BLOCK_K + k, inverse, keep, K, ROWS, DOT, ASM)
        w = as_operand(tl.load(w_ptr + step * (BLOCK_N * BLOCK_K) + tile), DOT, ASM)
        acc = tl.dot(x, tl.trans(w), acc, out_dtype=acc.dtype)
    return acc


@triton.jit
def _sum_int4(
    x_ptr, weight_ptr, scale_ptr, m, in_m, inverse, keep, part, K: tl.constexpr, ROWS: tl.constexpr,
    DOT: tl.constexpr, GROUP: tl.constexpr, SPLIT: tl.constexpr, ASM: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    PAIRS: tl.constexpr = (K + 2 * GROUP - 1) // (2 * GROUP)
    EACH: tl.constexpr = (PAIRS + SPLIT - 1) // SPLIT
    PIECES: tl.constexpr = GROUP // BLOCK_K
    k, n = tl.arange(0, BLOCK_K), tl.arange(0, BLOCK_N)
    tile = n[:, None] * BLOCK_K + k[None, :]
    first = tl.program_id(1).to(tl.int64) * (EACH * SPLIT) + part * EACH
    w_ptr = weight_ptr + first * (BLOCK_N * GROUP)
    s_ptr = scale_ptr + first * BLOCK_N + n
    nothing = tl.zeros((BLOCK_M, BLOCK_N), tl.int32 if DOT == "int8" else tl.float32)
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for pair in range(EACH):
        low, high = nothing, nothing
        for piece in tl.static_range(PIECES):
            at = (part * EACH + pair) * (2 * GROUP) + piece * BLOCK_K + k
            w = tl.load(w_ptr + (pair * PIECES + piece) * (BLOCK_N * BLOCK_K) + tile)
            w_low, w_high = as_operand((w << 4).to(tl.int8), DOT, ASM), as_operand((w & -16).to(tl.int8), DOT, ASM)
            x_low = _load_x(x_ptr, m, in_m, at, inverse, keep, K, ROWS, DOT, ASM)
            x_high = _load_x(x_ptr, m, in_m, at + GROUP, inverse, keep, K, ROWS, DOT, ASM)
            low = tl.dot(x_low, tl.trans(w_low), low, out_dtype=nothing.dtype)
            high = tl.dot(x_high, tl.trans(w_high), high, out_dtype=nothing.dtype)
        scales = tl.load(s_ptr + pair * BLOCK_N)
        acc += low.to(tl.float32) * (scales << 16).to(tl.float32, bitcast=True)[None, :]
        acc += high.to(tl.float32) * (scales & -65536).to(tl.float32, bitcast=True)[None, :]
    return acc


@triton.jit
def epilogue(
    acc, m, in_m, n, y_ptr, multiplier_ptr, offset_ptr, compensation_ptr, residual_ptr, row_scale,
    parameter, y_inv_scale, y_zero_point, N: tl.constexpr, ACTIVATION: tl.constexpr, SCALED: tl.constexpr,
    COMPENSATED: tl.constexpr, RESIDUAL: tl.constexpr, INT8_OUT: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """act(acc * multiplier + offset) + residual, in int8 where the output is; each product and sum rounds once."""
    in_n = n < N
    if COMPENSATED:
        acc += tl.load(compensation_ptr + n, mask=in_n, other=0)[None, :]
    multiplier = tl.load(multiplier_ptr + n, mask=in_n, other=0.0)[None, :]
    offset = tl.load(offset_ptr + n, mask=in_n, other=0.0)[None, :]
    if SCALED:
        multiplier = multiply_rn(multiplier, row_scale[:, None], ASM)
    y = activate(multiply_rn(acc.to(tl.float32), multiplier, ASM) + offset, parameter, ACTIVATION)
    at = m[:, None].to(tl.int64) * N + n[None, :]
    inside = in_m[:, None] & in_n[None, :]
    if RESIDUAL:
        y += tl.load(residual_ptr + at, mask=inside, other=0.0)
    if INT8_OUT:
        y = to_int8(multiply_rn(y, y_inv_scale + tl.zeros_like(y), ASM), y_zero_point)
    tl.store(y_ptr + at, y, mask=inside)


@triton.jit(do_not_specialize=["rows", "y_zero_point"])
def mixed_kernel(
    x_ptr, weight_ptr, scale_ptr, y_ptr, multiplier_ptr, offset_ptr, compensation_ptr, row_scale_ptr, residual_ptr,
    work_ptr, count_ptr, rows, parameter, y_inv_scale, y_zero_point,
    N: tl.constexpr, K: tl.constexpr, ROWS: tl.constexpr, DOT: tl.constexpr, GROUP: tl.constexpr,
    ACTIVATION: tl.constexpr, SCALED: tl.constexpr, COMPENSATED: tl.constexpr, RESIDUAL: tl.constexpr,
    INT8_OUT: tl.constexpr, ASM: tl.constexpr, SPLIT: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):  # fmt: skip
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    part = tl.program_id(2)
    in_m = m < rows
    inverse, row_scale, keep = 1.0, 1.0, True
    if ROWS == "int8":
        inverse, row_scale, keep = row_scales(x_ptr, m, in_m, 127.0, K, BLOCK_K)
    elif ROWS == "float8":
        inverse, row_scale, keep = row_scales(x_ptr, m, in_m, 448.0, K, BLOCK_K)
    elif SCALED:
        row_scale = tl.load(row_scale_ptr + m, mask=in_m, other=0.0)

    if GROUP:
        acc = _sum_int4(
            x_ptr, weight_ptr, scale_ptr, m, in_m, inverse, keep, part, K, ROWS, DOT, GROUP, SPLIT, ASM,
            BLOCK_M, BLOCK_N, BLOCK_K,
        )  # fmt: skip
    else:
        acc = _sum_dense(
            x_ptr, weight_ptr, m, in_m, inverse, keep, part, K, ROWS, DOT, SPLIT, ASM, BLOCK_M, BLOCK_N, BLOCK_K
        )

    if SPLIT > 1:
        tile = tl.program_id(1).to(tl.int64) * tl.num_programs(0) + tl.program_id(0)
        if put_part(acc, in_m, work_ptr, count_ptr, tile, part, SPLIT):
            total = sum_parts(acc, in_m, work_ptr, count_ptr, tile, SPLIT)
            epilogue(
                total, m, in_m, n, y_ptr, multiplier_ptr, offset_ptr, compensation_ptr, residual_ptr, row_scale,
                parameter, y_inv_scale, y_zero_point, N, ACTIVATION, SCALED, COMPENSATED, RESIDUAL, INT8_OUT, ASM,
            )  # fmt: skip
    else:
        epilogue(
            acc, m, in_m, n, y_ptr, multiplier_ptr, offset_ptr, compensation_ptr, residual_ptr, row_scale,
            parameter, y_inv_scale, y_zero_point, N, ACTIVATION, SCALED, COMPENSATED, RESIDUAL, INT8_OUT, ASM,
        )  # fmt: skip
