"""Bytes picked from two words by a selector, as a card does it in one instruction; with a twin for the interpreter."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _picked(low, high, selector, BYTE: tl.constexpr):
    at = (selector >> (4 * BYTE)) & 7
    return ((tl.where(at < 4, low, high) >> ((at & 3) * 8)) & 255) << (8 * BYTE)


@triton.jit
def pick_bytes(low, high, selector, ASM: tl.constexpr):
    """int32 words whose byte i is byte s of the eight bytes of (low, high), s in 0..7 being bits 4 i .. 4 i + 2 of the selector;
    tiles of one shape. The bits between (4 i + 3) must be 0: there prmt would spread a sign."""
    if ASM:
        r = tl.inline_asm_elementwise(
            "prmt.b32 $0, $1, $2, $3;", "=r,r,r,r", [low, high, selector], dtype=tl.int32, is_pure=True, pack=1
        )
    else:
        r = _picked(low, high, selector, 0) | _picked(low, high, selector, 1)
        r = r | _picked(low, high, selector, 2) | _picked(low, high, selector, 3)
    return r
