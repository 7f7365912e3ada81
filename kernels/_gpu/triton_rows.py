"""For how many rows a kernel that computes products without tensor cores is worth taking: an estimate, not a measurement.

Such a kernel reads each weight once and issues some instructions for every 16 bytes of them and every row. As long as
issuing takes no longer than the reading, or than a microsecond, tensor cores have nothing to gain on it. The rates are those
of an H100: 132 multiprocessors, four warps issuing at 1.755 GHz, 3.35 TB/s. No card has confirmed the rule.

Rows of float32 x that a kernel of few rows rounds to int8 itself, in words of four.

A scale per row is found in a pass before. With one scale for all there is none: what is not finite shows in `nan_mark`, a sum of
zeros that it makes NaN.

Warps that need the same words share the rounding: each rounds a part of a step of x, and a conversion by way of shared memory
gives every warp all of it. So nothing is gathered, and a lane reads 16 bytes at a time.
"""

from __future__ import annotations

import triton
import triton.language as tl

from rtaccel.kernels._gpu.triton_device import round_half_even, to_int8

MAX_ROWS = 8
"""Sums that a lane keeps in registers, one for each row."""

LANES_PER_US = 132 * 4 * 32 * 1755
BYTES_PER_US = 3.35e6
AT_LEAST_US = 1.0


def too_many_rows(rows: int, weight_bytes: int, instructions: float) -> str | None:
    """None, or why tensor cores should take this.

    instructions: of one lane, for 16 bytes of weights and each row. Unpacking the weights is not counted: tensor cores need
    it too.
    """
    if rows > MAX_ROWS:
        return f"keeps one sum per row in registers, for M <= {MAX_ROWS}, not M = {rows}"
    issue = weight_bytes / 16 * instructions * max(rows, 1) / LANES_PER_US
    read = weight_bytes / BYTES_PER_US
    if issue > max(read, AT_LEAST_US):
        return f"would multiply for {issue:.1f} us on an H100 at M = {rows}, where reading takes {read:.1f} us"
    return None


TINY = tl.constexpr(2.0**-100)
INFINITY_BITS = tl.constexpr(0x7F800000)


@triton.jit
def row_scale(x_row, inside, K: tl.constexpr, BLOCK_K: tl.constexpr):
    """(inverse, scale) of one row of float32, as `quantize` has them; inverse 0 where the row counts as zeros."""
    k = tl.arange(0, BLOCK_K)
    bits = tl.zeros((BLOCK_K,), tl.int32)
    for k0 in range(0, K, BLOCK_K):
        x = tl.load(x_row + k0 + k, mask=(k0 + k < K) & inside, other=0.0)  # [BLOCK_K]
        bits = tl.maximum(bits, x.to(tl.int32, bitcast=True) & 0x7FFFFFFF)
    peak_bits = tl.max(bits, 0)
    finite = peak_bits < INFINITY_BITS
    keep = finite & (peak_bits.to(tl.float32, bitcast=True) >= TINY)
    safe = tl.where(keep, peak_bits.to(tl.float32, bitcast=True), 1.0)
    limit = tl.full((), 127.0, tl.float32)
    scale = tl.where(keep, tl.div_rn(safe, limit), tl.where(finite, 1.0, float("nan")))
    return tl.where(keep, tl.div_rn(limit, safe), 0.0), scale


@triton.jit
def quantize4(a, b, c, d, ASM: tl.constexpr):
    """int32 words of four float32 numbers, each |v| < 127.5, rounded half to even; a in the lowest byte. A NaN or an infinity
    gives some number."""
    if ASM:
        r = tl.inline_asm_elementwise(
            """{
            .reg .s32 p, q, u, v, w;
            cvt.rni.s32.f32 p, $1;
            cvt.rni.s32.f32 q, $2;
            cvt.rni.s32.f32 u, $3;
            cvt.rni.s32.f32 v, $4;
            cvt.pack.sat.s8.s32.b32 w, v, u, 0;
            cvt.pack.sat.s8.s32.b32 $0, q, p, w;
            }""",
            "=r,f,f,f,f", [a, b, c, d], dtype=tl.int32, is_pure=True, pack=1,
        )  # fmt: skip
    else:
        r = _byte(a) | (_byte(b) << 8) | (_byte(c) << 16) | (_byte(d) << 24)
    return r


@triton.jit
def _byte(v):
    return round_half_even(tl.minimum(tl.maximum(v, -127.0), 127.0)).to(tl.int32) & 255


@triton.jit
def quantize4_shifted(a, b, c, d, zero_point, ASM: tl.constexpr):
    """The same of numbers of any size: clamp(rint(v) + zero_point, -128, 127).

    ASM: 16 bits hold what is rounded, so the zero point may be added without wrapping; a conversion saturates."""
    if ASM:
        r = tl.inline_asm_elementwise(
            """{
            .reg .s16 e, f, g, h;
            .reg .s32 p, q, u, v, w;
            cvt.rni.s16.f32 e, $1;
            cvt.rni.s16.f32 f, $2;
            cvt.rni.s16.f32 g, $3;
            cvt.rni.s16.f32 h, $4;
            cvt.s32.s16 p, e;
            cvt.s32.s16 q, f;
            cvt.s32.s16 u, g;
            cvt.s32.s16 v, h;
            add.s32 p, p, $5;
            add.s32 q, q, $5;
            add.s32 u, u, $5;
            add.s32 v, v, $5;
            cvt.pack.sat.s8.s32.b32 w, v, u, 0;
            cvt.pack.sat.s8.s32.b32 $0, q, p, w;
            }""",
            "=r,f,f,f,f,r", [a, b, c, d, zero_point], dtype=tl.int32, is_pure=True, pack=1,
        )  # fmt: skip
    else:
        r = _shifted(a, zero_point) | (_shifted(b, zero_point) << 8)
        r = r | (_shifted(c, zero_point) << 16) | (_shifted(d, zero_point) << 24)
    return r


@triton.jit
def _shifted(v, zero_point):
    return to_int8(v, zero_point).to(tl.int32) & 255


@triton.jit
def rounded4(a, b, c, d, inverse, zero_point, nan_mark, STATIC: tl.constexpr, ASM: tl.constexpr):
    """(words of four float32 numbers times inverse, nan_mark)."""
    if STATIC:
        zero = tl.zeros_like(a)
        nan_mark = tl.fma(d, zero, tl.fma(c, zero, tl.fma(b, zero, tl.fma(a, zero, nan_mark))))
        words = quantize4_shifted(a * inverse, b * inverse, c * inverse, d * inverse, zero_point, ASM)
    else:
        words = quantize4(a * inverse, b * inverse, c * inverse, d * inverse, ASM)
    return words, nan_mark


@triton.jit
def split4(x):
    """The four numbers of each row of [n, 4], where a thread has them."""
    even, odd = tl.split(tl.reshape(x, (x.shape[0], 2, 2)))
    a, c = tl.split(even)
    b, d = tl.split(odd)
    return a, b, c, d


@triton.jit
def shared_words(
    x_row, word, inside, inverse, zero_point, nan_mark, K: tl.constexpr, STATIC: tl.constexpr, ASM: tl.constexpr
):  # fmt: skip
    """(words `word`, a tile [n], of a row of float32 x, nan_mark), each rounded by one thread. inside: the row, [n, 1]."""
    at = word[:, None] * 4 + tl.arange(0, 4)[None, :]
    a, b, c, d = split4(tl.load(x_row + at, mask=(at < K) & inside, other=0.0))  # [n, 4]
    return rounded4(a, b, c, d, inverse, zero_point, nan_mark, STATIC, ASM)


@triton.jit
def is_marked(nan_mark):
    """Whether sums of zeros, one number or several, are NaN."""
    return (nan_mark.to(tl.int32, bitcast=True) & 0x7FFFFFFF) >= INFINITY_BITS
