"""How the Triton kernels of single weights walk along a row of weights, and where they find what it multiplies.

The streams are those of pack.py. A program begins at the line in which a row begins, and leaves out what is of the row before.
Starts and columns come from memory, checked by the formats before any kernel runs. The arithmetic holds for any of their numbers
that is not negative: a row is never longer than the layer is wide, and what could pass 2^31 is 64 bits wide.

x is gathered from memory, or, for words of four int8 numbers, from the program's shared memory: there a program holds its rows
of x whole, quantized in front where the stage asks for it.
"""

from __future__ import annotations

import triton
import triton.language as tl

from rtaccel.kernels._gpu.triton_device import to_int8
from rtaccel.kernels._gpu.triton_tiles import repeated
from rtaccel.kernels.linear.triton.mixed import INFINITY_BITS, TINY


@triton.jit
def row_units(first, following, X: tl.constexpr, C: tl.constexpr, UNIT: tl.constexpr):
    """Units of a row of blocks, from its start and that of the next: no more than X elements of x can have."""
    MAX: tl.constexpr = ((X + C - 1) // C + UNIT // C - 1) // (UNIT // C)
    return tl.minimum(tl.maximum(following - first, 0), MAX)


@triton.jit
def streams(
    weight_ptr, columns_ptr, starts_ptr, n, N: tl.constexpr, X: tl.constexpr, C: tl.constexpr, UNIT: tl.constexpr,
    LEAD: tl.constexpr,
):  # fmt: skip
    """(weights, columns, begin, end) of outputs n, each a tile [outputs, 1]. The pointers lie where a line begins, at a multiple
    of LEAD units; the row's elements from there are begin .. end - 1."""
    output = n[:, None]
    first = tl.load(starts_ptr + output, mask=output < N, other=0)  # [n, 1]
    following = tl.load(starts_ptr + output + 1, mask=output < N, other=0)  # [n, 1]
    units = row_units(first, following, X, C, UNIT)
    before = first % LEAD
    wide = (first - before).to(tl.int64)
    return weight_ptr + wide * UNIT, columns_ptr + wide * (UNIT // C), before * UNIT, (before + units) * UNIT


@triton.jit
def take(
    weights, columns, at0, begin, end, X: tl.constexpr, C: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_W: tl.constexpr
):
    """(w, x_at, inside) of BLOCK_W elements of every stream, from at0 on, a tile [n, at]: the weights, which elements of x they
    multiply, and which of them are there at all: the last block of a row may reach over the edge of x."""
    at = at0 + tl.arange(0, BLOCK_W)[None, :]
    there = at + tl.zeros((BLOCK_N, BLOCK_W), tl.int32)
    inside = (there >= begin) & (there < end)
    w = tl.load(weights + at, mask=inside, other=0)  # [n, at]
    EACH: tl.constexpr = BLOCK_W // 32  # elements of a lane
    if C % EACH == 0:  # they have the same column
        part = at0 // EACH + tl.arange(0, 32)[None, :]
        column_at = tl.max_contiguous(part // (C // EACH), (1, 2))  # triton_tiles.repeated
        there = (part * EACH >= begin) & (part * EACH < end)
        column = repeated(tl.load(columns + column_at, mask=there, other=0).to(tl.int32), EACH)
        x_at = tl.max_contiguous(tl.multiple_of(column * C + at % C, (1, EACH)), (1, EACH))
    else:
        column = tl.load(columns + at // C, mask=inside, other=0).to(tl.int32)  # [n, at]
        x_at = tl.max_contiguous(column, (1, 2)) * C + at % C  # not so, for the layout alone (triton_tiles.repeated)
    if X % C:
        inside = inside & (x_at < X)
    return w, x_at, inside


@triton.jit
def held_row(x_row, there, inverse, zero_point, K: tl.constexpr, WORDS: tl.constexpr, QUANTIZE: tl.constexpr):
    """(words, scale) of one row of x: int32 [WORDS], four int8 numbers each, and float32 [1].

    QUANTIZE: x is float32, rounded as the `quantize` operator does. "rows": with a scale of its own. "static": by inverse and
    zero_point, and the scale is 1 for a finite row. Else it lies in words, and the scale is not known here. there: a tile [1]; a
    row that is not is not read."""
    scale = tl.full((1,), 1.0, tl.float32)
    if QUANTIZE != "":
        at = tl.arange(0, WORDS)[:, None] * 4 + tl.arange(0, 4)[None, :]
        x = tl.load(x_row + at, mask=(at < K) & there[:, None], other=0.0)  # [WORDS, 4]
        bits = tl.max(tl.max(x.to(tl.int32, bitcast=True) & 0x7FFFFFFF, 1), 0) + tl.zeros((1,), tl.int32)
        finite = bits < INFINITY_BITS
        if QUANTIZE == "static":
            keep = finite
            scale = tl.where(finite, 1.0, float("nan"))
            q = to_int8(x * inverse, zero_point).to(tl.int32)
        else:
            keep = finite & (bits.to(tl.float32, bitcast=True) >= TINY)
            peak = tl.where(keep, bits.to(tl.float32, bitcast=True), 1.0)
            limit = tl.full((1,), 127.0, tl.float32)
            scale = tl.where(keep, tl.div_rn(peak, limit), tl.where(finite, 1.0, float("nan")))
            q = tl.maximum(to_int8(x * tl.div_rn(limit, peak)[:, None], 0), -127).to(tl.int32)
        q = tl.where(keep[:, None], q, 0) & 255
        words = tl.sum(q << (8 * tl.arange(0, 4))[None, :], 1)
    else:
        word = tl.arange(0, WORDS)
        words = tl.load(x_row + word, mask=(word < K // 4) & there, other=0)  # [WORDS]
    return words, scale


@triton.jit
def held_rows(
    x_row, m, rows, inverse, zero_point, ROWS: tl.constexpr, K: tl.constexpr, WORDS: tl.constexpr, QUANTIZE: tl.constexpr
):  # fmt: skip
    """`held_row` of rows m .. m + ROWS - 1, in two tuples; x_row is the first. WORDS 0: nothing is held."""
    held, scales = (), ()
    for r in tl.static_range(ROWS):
        if WORDS:
            there = m + tl.zeros((1,), tl.int64) + r < rows
            at = x_row + r * (K // 4 if QUANTIZE == "" else K)
            words, scale = held_row(at, there, inverse, zero_point, K, WORDS, QUANTIZE)
        else:
            words, scale = tl.zeros((1,), tl.int32), tl.full((1,), 1.0, tl.float32)
        held = held + (words,)  # noqa: RUF005
        scales = scales + (scale,)  # noqa: RUF005
    return held, scales


@triton.jit
def x_words(held, x_row, x_at, inside, WORDS: tl.constexpr):
    """Words or numbers x_at of a row of x, a tile [outputs, words], 0 where they are not inside. Of a held row what is not inside
    is any of it, which meets weights that are 0."""
    if WORDS:
        flat = tl.reshape(x_at & (WORDS - 1), (x_at.shape[0] * x_at.shape[1],))
        x = tl.reshape(tl.gather(held, flat, 0), (x_at.shape[0], x_at.shape[1]))
    else:
        x = tl.load(x_row + x_at, mask=inside, other=0)  # [n, words]
    return x


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


@triton.jit
def held_floats(x_row, m, rows, ROWS: tl.constexpr, K: tl.constexpr, HELD: tl.constexpr):
    """Rows m .. m + ROWS - 1 of x, float32 [HELD], and whether each is finite, [1]: two tuples. HELD 0: nothing is held."""
    held, finite = (), ()
    at = tl.arange(0, HELD if HELD else 1)
    for r in tl.static_range(ROWS):
        if HELD:
            there = m + tl.zeros((1,), tl.int64) + r < rows
            x = tl.load(x_row + r * K + at, mask=(at < K) & there, other=0.0)  # [HELD]
            bits = tl.max(x.to(tl.int32, bitcast=True) & 0x7FFFFFFF, 0) + tl.zeros((1,), tl.int32)
        else:
            x, bits = tl.zeros((1,), tl.float32), tl.zeros((1,), tl.int32)
        held = held + (x,)  # noqa: RUF005
        finite = finite + (bits < INFINITY_BITS,)  # noqa: RUF005
    return held, finite
