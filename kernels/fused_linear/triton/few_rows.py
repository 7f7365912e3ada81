"""How fused layers of few rows with int4 weights, or int8 x, read x: each warp what its lanes multiply."""

from __future__ import annotations

import triton
import triton.language as tl

from rtaccel.kernels._gpu.triton_device import dot4
from rtaccel.kernels._gpu.triton_rounded import rounded4


@triton.jit
def x_words(
    x_row, at, inside, inverse, zero_point, spoiled, K: tl.constexpr, X: tl.constexpr, SHARE: tl.constexpr, ASM: tl.constexpr
):  # fmt: skip
    """(words of a row of x as int8: those at `at`, spoiled).

    X: "rows" and "static": of the float32 numbers at, at + SHARE, at + 2 and 3 SHARE, times inverse. Every load has the shape of
    `at`, [n, words]."""
    if X == "int8":
        words = tl.load(x_row + at, mask=inside & (at < K // 4), other=0)
    else:
        k = at
        a = tl.load(x_row + k, mask=inside & (k < K), other=0.0)
        b = tl.load(x_row + k + SHARE, mask=inside & (k + SHARE < K), other=0.0)
        c = tl.load(x_row + k + 2 * SHARE, mask=inside & (k + 2 * SHARE < K), other=0.0)
        d = tl.load(x_row + k + 3 * SHARE, mask=inside & (k + 3 * SHARE < K), other=0.0)
        words, spoiled = rounded4(a, b, c, d, inverse, zero_point, spoiled, X == "static", ASM)
    return words, spoiled


@triton.jit
def add_products(acc, spoiled, w, scales, x_row, at, inside, inverse, zero_point, K: tl.constexpr, GROUP: tl.constexpr,
                 X: tl.constexpr, SHARE: tl.constexpr, RUN: tl.constexpr, ASM: tl.constexpr):  # fmt: skip
    """(acc, spoiled) with the products of one row of x and a tile of weights."""
    NEXT: tl.constexpr = RUN if X == "int8" else 4 * RUN  # from a run of int4 to the other one of its words
    if X != "int8":
        x_at = at // SHARE * (4 * SHARE) + at % SHARE
        if GROUP:
            x_at += at // RUN * (4 * RUN)
    elif GROUP:
        x_at = at // RUN * (2 * RUN) + at % RUN
    else:
        x_at = at
    words, spoiled = x_words(x_row, x_at, inside, inverse, zero_point, spoiled, K, X, SHARE, ASM)
    if GROUP:
        low = dot4((w << 4) & -252645136, words, tl.zeros_like(w), ASM)
        acc = tl.fma(low.to(tl.float32), (scales << 16).to(tl.float32, bitcast=True), acc)
        words, spoiled = x_words(x_row, x_at + NEXT, inside, inverse, zero_point, spoiled, K, X, SHARE, ASM)
        high = dot4(w & -252645136, words, tl.zeros_like(w), ASM)
        acc = tl.fma(high.to(tl.float32), (scales & -65536).to(tl.float32, bitcast=True), acc)
    else:
        acc = dot4(w, words, acc, ASM)
    return acc, spoiled
