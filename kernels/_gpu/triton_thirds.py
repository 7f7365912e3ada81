"""float32 numbers as sums of three bfloat16 numbers, exactly, so that tensor cores multiply them without rounding.

A third is the upper half of the bits of what is left: 8 of the 24 bits of a number, cut off, so no third is larger than it, and
none overflows. What is left is exact. Of a number below 2^-110 the last bits are lost, as a bfloat16 ends at 2^-133.

The first third of an infinity or a NaN is the number itself. The others are then NaN. `total` leaves out what they add where
it is a NaN: sums of the first thirds have everything that is not finite.
"""

from __future__ import annotations

import triton
import triton.language as tl

PAIR = tl.constexpr("""{
    .reg .b32 a, b, p;
    cvt.rz.bf16x2.f32 p, $7, $6;
    mov.b32 {$0, $1}, p;
    and.b32 a, $6, 0xFFFF0000;
    and.b32 b, $7, 0xFFFF0000;
    sub.f32 a, $6, a;
    sub.f32 b, $7, b;
    prmt.b32 p, a, b, 0x7632;
    mov.b32 {$2, $3}, p;
    and.b32 p, a, 0xFFFF0000;
    sub.f32 a, a, p;
    and.b32 p, b, 0xFFFF0000;
    sub.f32 b, b, p;
    prmt.b32 p, a, b, 0x7632;
    mov.b32 {$4, $5}, p;
    }""")
"""The conversion keeps a NaN whose upper half alone would be an infinity."""


@triton.jit
def _upper(x):
    """The upper half of the bits of float32 x, as float32."""
    return (x.to(tl.int32, bitcast=True) & -65536).to(tl.float32, bitcast=True)


@triton.jit
def _thirds(x):
    """The three of float32 x, as float32."""
    first = tl.where(x == x, _upper(x), x)
    second = _upper(x - first)
    return first, second, x - first - second


@triton.jit
def thirds_of(x, y, ASM: tl.constexpr):
    """The three bfloat16 numbers of tiles x and y of one shape: (first of x, first of y, second of x, ...). In the interpreter
    they are float32."""
    if ASM:
        r = tl.inline_asm_elementwise(
            PAIR, "=h,=h,=h,=h,=h,=h,f,f", [x, y], dtype=(tl.bfloat16,) * 6, is_pure=True, pack=1
        )
    else:
        x0, x1, x2 = _thirds(x)
        y0, y1, y2 = _thirds(y)
        r = x0, y0, x1, y1, x2, y2
    return r


@triton.jit
def total(sums):
    """[m, n] of sums [m, n, 2]: of the products with first thirds, and of those with the others."""
    others = tl.arange(0, 2)[None, None, :] == 1
    return tl.sum(tl.where(others & (sums != sums), 0.0, sums), 2)
