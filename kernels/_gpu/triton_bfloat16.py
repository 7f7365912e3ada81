"""int4 and int8 weights as bfloat16 numbers, without a conversion: exact, and element by element, so whatever layout a tile has.

An element is 16 bits, with four int4 or two int8 numbers; each of them becomes a tile of bfloat16 of the same shape. So an
element is as wide as what the tensor cores take, and no byte is moved within a register.

The bits of a whole number v up to 255 are the bfloat16 number v 2^-133: those up to 127 are subnormal, and the spacing of the
next ones is the same. A multiply-add by 2^127 makes v / 64 of it, and takes an offset away, which is exact.

    int8, stored as v = q + 128:                v / 64 - 2 = q / 64
    int4 in the upper half of a byte, as 16 v:  v / 4 - 2 = q / 4, where v = q + 8
    int4 in the lower half:                     (128 + v) / 4 - 34 = q / 4; the bits of v under 0x4300 are 128 + v

So a weight comes out divided by a power of two, `WORTH`, which the sums are multiplied by at the end. Only every second byte
needs a shift. Elements are made two at a time. PTX defines this multiply-add with subnormal numbers; a product of pairs alone
would need compute capability 9.0. The interpreter, which has no assembly, computes the same numbers.
"""

from __future__ import annotations

import triton
import triton.language as tl


def _int4(j: int) -> str:
    """$0 of $1: two bfloat16 of number j of two elements. `a & mask | bits` is the table 0xEA."""
    number = (
        "and.b32 a, a, 0x00F000F0; mov.b32 factor, 0x7F007F00; mov.b32 minus, 0xC000C000;"
        if j % 2
        else "lop3.b32 a, a, 0x000F000F, 0x43004300, 0xEA; mov.b32 factor, 0x3E803E80; mov.b32 minus, 0xC208C208;"
    )
    return f"""{{
    .reg .b32 a, factor, minus;
    shr.u32 a, $1, {8 * (j // 2)};
    {number}
    fma.rn.bf16x2 $0, a, factor, minus;
    }}"""


def _int8(j: int) -> str:
    byte = "prmt.b32 a, $1, 0, 0x4341;" if j else "and.b32 a, $1, 0x00FF00FF;"
    return f"""{{
    .reg .b32 a, factor, minus;
    mov.b32 factor, 0x7F007F00;
    mov.b32 minus, 0xC000C000;
    {byte}
    fma.rn.bf16x2 $0, a, factor, minus;
    }}"""


INT4_0, INT4_1, INT4_2, INT4_3 = (tl.constexpr(_int4(j)) for j in range(4))
INT8_0, INT8_1 = (tl.constexpr(_int8(j)) for j in range(2))


@triton.jit
def worth(BITS: tl.constexpr):
    """What a sum of products with `bfloat16_of` is multiplied by."""
    return 4.0 if BITS == 4 else 64.0


@triton.jit
def bfloat16_of(w, j: tl.constexpr, BITS: tl.constexpr, ASM: tl.constexpr):
    """Number j of each element of w, int16, divided by `worth`: bfloat16, in the interpreter float32. BITS: 4 or 8, of a number
    that is stored with 8 or 128 added."""
    if ASM:
        if BITS == 4:
            if j == 0:
                r = tl.inline_asm_elementwise(INT4_0, "=r,r", [w], dtype=tl.bfloat16, is_pure=True, pack=2)
            elif j == 1:
                r = tl.inline_asm_elementwise(INT4_1, "=r,r", [w], dtype=tl.bfloat16, is_pure=True, pack=2)
            elif j == 2:
                r = tl.inline_asm_elementwise(INT4_2, "=r,r", [w], dtype=tl.bfloat16, is_pure=True, pack=2)
            else:
                r = tl.inline_asm_elementwise(INT4_3, "=r,r", [w], dtype=tl.bfloat16, is_pure=True, pack=2)
        elif j == 0:
            r = tl.inline_asm_elementwise(INT8_0, "=r,r", [w], dtype=tl.bfloat16, is_pure=True, pack=2)
        else:
            r = tl.inline_asm_elementwise(INT8_1, "=r,r", [w], dtype=tl.bfloat16, is_pure=True, pack=2)
    elif BITS == 4:
        r = (((w >> (4 * j)) & 15) - 8).to(tl.float32) * 0.25
    else:
        r = (((w >> (8 * j)) & 255) - 128).to(tl.float32) * 0.015625
    return r
