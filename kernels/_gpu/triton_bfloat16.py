"""int4 and int8 weights as bfloat16 numbers, without a conversion: exact, and element by element, so whatever layout a tile has.

An element is 16 bits, with four int4 or two int8 numbers; each of them becomes a tile of bfloat16 of the same shape. So an
element is as wide as what the tensor cores take, and no byte is moved within a register. The bits of a number below 128 under
those of 128, 0x4300, are the bfloat16 number 128 + n, whose last bit is worth 1:

    int4, stored as q + 8 in 0..15:   bits(0x4300 | n) - 136
    int8:                             bits(0x4300 | (q & 0x7F)) - bits(0x4300 | (q & 0x80))    the sign bit makes 256 of 128

A conversion is a quarter as fast as other instructions. These are made two elements at a time: a shift, a mask and a
multiply-add, whose factor is 1 because a sum of bfloat16 pairs needs compute capability 9.0. The interpreter, which has no
assembly, computes the same numbers.
"""

from __future__ import annotations

import triton
import triton.language as tl


def _int4(j: int) -> str:
    """$0 of $1: two bfloat16 of number j of two elements. `a & mask | bits` is the table 0xEA."""
    return f"""{{
    .reg .b32 a, one, minus;
    mov.b32 one, 0x3F803F80;
    mov.b32 minus, 0xC308C308;
    shr.u32 a, $1, {4 * j};
    lop3.b32 a, a, 0x000F000F, 0x43004300, 0xEA;
    fma.rn.bf16x2 $0, a, one, minus;
    }}"""


def _int8(j: int) -> str:
    return f"""{{
    .reg .b32 a, sign, minus;
    mov.b32 minus, 0xBF80BF80;
    shr.u32 a, $1, {8 * j};
    lop3.b32 sign, a, 0x00800080, 0x43004300, 0xEA;
    lop3.b32 a, a, 0x007F007F, 0x43004300, 0xEA;
    fma.rn.bf16x2 $0, sign, minus, a;
    }}"""


INT4_0, INT4_1, INT4_2, INT4_3 = (tl.constexpr(_int4(j)) for j in range(4))
INT8_0, INT8_1 = (tl.constexpr(_int8(j)) for j in range(2))


@triton.jit
def bfloat16_of(w, j: tl.constexpr, BITS: tl.constexpr, ASM: tl.constexpr):
    """Number j of each element of w, int16: bfloat16, in the interpreter float32. BITS: 4 or 8, of a number."""
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
        r = (((w >> (4 * j)) & 15) - 8).to(tl.float32)
    else:
        r = ((w >> (8 * j)) & 255).to(tl.int8).to(tl.float32)
    return r
