"""Keys by which elements of a line are put in order: whole numbers, the smaller first, equal ones by where they are.

A float32 becomes an int32 that is ordered as the number is: both zeros alike, a NaN the largest or, where it comes first, the
smallest. Descending is the complement, which has no overflow. int64 is its own key.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def key_of(x, DESCENDING: tl.constexpr, NAN_FIRST: tl.constexpr):
    if x.dtype == tl.int64:
        key = x
    else:
        bits = tl.where(x == 0.0, 0.0, x).to(tl.int32, bitcast=True)
        key = bits ^ ((bits >> 31) & 0x7FFFFFFF)
        key = tl.where(x != x, -0x80000000 if NAN_FIRST else 0x7FFFFFFF, key)
    if DESCENDING:
        key = ~key
    return key
