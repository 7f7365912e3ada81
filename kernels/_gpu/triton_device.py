"""Device helpers of the Triton kernels: rounding and int8 products. No operator knowledge.

Everything here runs both compiled and in the interpreter, which has neither libdevice nor inline assembly: what is one
instruction has a twin in plain `tl` that its constexpr picks.

Kernels that call these must be compiled with `enable_fp_fusion=False`: `t * a + b` is two roundings here, and where
the contract counts on it, `multiply_rn` makes sure.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import triton
import triton.language as tl

from rtaccel.core import settings

MAGIC = tl.constexpr(12582912.0)
"""1.5 * 2^23: adding it to |v| <= 2^22 leaves no fraction bits, so the sum is rounded, ties to even."""


@triton.jit
def round_half_even(v):
    """rint(v) for float32 |v| <= 2^22: two exact-by-construction additions instead of libdevice."""
    return (v + MAGIC) - MAGIC


@triton.jit
def to_int8(v, zero_point):
    """clamp(rint(v) + zero_point, -128, 127) as int8. v float32, any size; a NaN gives an unspecified number.

    Clamping first to +-512 changes nothing, because 512 - 128 is already past 127, and keeps the rounding in range.
    """
    bounded = tl.minimum(tl.maximum(v, -512.0), 512.0)
    q = round_half_even(bounded).to(tl.int32) + zero_point
    return tl.minimum(tl.maximum(q, -128), 127).to(tl.int8)


@triton.jit
def multiply_rn(a, b, ASM: tl.constexpr):
    """a * b in float32, rounded, whatever is added to it next; tiles that broadcast.

    ASM: the instruction by name. It is needed although fusion is off: for sm_100 LLVM pairs the products and sums
    into `mul.rn.f32x2` and `add.rn.f32x2`, and the ptxas of triton 3.6 fuses those into FFMA2 under --fmad=false.
    """
    if ASM:
        r = tl.inline_asm_elementwise(
            "mul.rn.f32 $0, $1, $2;", "=f,f,f", [a, b], dtype=tl.float32, is_pure=True, pack=1
        )
    else:
        r = a * b
    return r


@triton.jit
def _signed_byte(word, INDEX: tl.constexpr):
    """Byte INDEX of an int32 word (0 is the lowest), sign-extended."""
    return (word << (24 - 8 * INDEX)) >> 24


@triton.jit
def dot4(a, b, acc, ASM: tl.constexpr):
    """acc + sum of the four products of signed bytes packed in the int32 words a and b; tiles of one shape.

    ASM: dp4a, one instruction (NVIDIA, compute capability 6.1 and later). Not ASM: the same numbers in plain `tl`.
    """
    if ASM:
        r = tl.inline_asm_elementwise(
            "dp4a.s32.s32 $0, $1, $2, $3;", "=r,r,r,r", [a, b, acc], dtype=tl.int32, is_pure=True, pack=1
        )
    else:
        r = acc + _signed_byte(a, 0) * _signed_byte(b, 0) + _signed_byte(a, 1) * _signed_byte(b, 1)
        r = r + _signed_byte(a, 2) * _signed_byte(b, 2) + _signed_byte(a, 3) * _signed_byte(b, 3)
    return r


@triton.jit
def pack_words(q):
    """int8 [N] -> int32 [N / 4], four bytes a word, the first in the lowest."""
    bytes4 = tl.reshape(q.to(tl.int32) & 255, (q.shape[0] // 4, 4))
    return tl.sum(bytes4 << (8 * tl.arange(0, 4))[None, :], 1)


def _fma_interpreted(a: Any, b: Any, c: Any, ASM: Any) -> Any:
    """By numpy in float64, where the product is exact and the sum is rounded to odd, so that the second rounding cannot undo the
    first. The interpreter's own fma rounds twice."""
    given = [
        t.handle.data if isinstance(t, tl.tensor) else np.float32(tl.core._unwrap_if_constexpr(t)) for t in (a, b, c)
    ]
    x, y, addend = (np.asarray(t, np.float64) for t in given)
    with np.errstate(all="ignore"):
        product = x * y
        total = np.asarray(product + addend)
        part = total - product
        error = (product - (total - part)) + (addend - part)
        bits = total.view(np.int64)
        inexact = (bits & 1 == 0) & (error != 0) & np.isfinite(error)
        step = np.where((error > 0) == (total > 0), 1, -1)
        r = np.where(inexact, bits + step, bits).view(np.float64).astype(np.float32)
    handle = next(t.handle for t in (a, b, c) if isinstance(t, tl.tensor))
    kind = tl.block_type(tl.float32, list(r.shape)) if r.shape else tl.float32
    return tl.tensor(type(handle)(r, tl.float32), kind)


@triton.jit
def _fma_compiled(a, b, c, ASM: tl.constexpr):
    tl.static_assert(ASM, "only the interpreter has no instructions")
    return tl.inline_asm_elementwise(
        "fma.rn.f32 $0, $1, $2, $3;", "=f,f,f,f", [a, b, c], dtype=tl.float32, is_pure=True, pack=1
    )


fma_rn: Any = _fma_interpreted if settings.triton_interpret() else _fma_compiled
"""a * b + c in float32, rounded once; tiles and numbers that broadcast."""
