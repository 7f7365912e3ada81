"""What a reduction or a scan joins two numbers by, in Triton; NaN as torch has it."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl


@triton.jit
def plus(a, b):
    return a + b


@triton.jit
def times(a, b):
    return a * b


@triton.jit
def larger(a, b):
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def smaller(a, b):
    return tl.minimum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def exponentials(a, b, c, d):
    """(the larger of a and c, the sum of exponentials beside it) of two such pairs: b exp(a) + d exp(c). a and c float32, b and d
    float64. Equal ones are not subtracted: two infinities."""
    most = larger(a, c)
    left = tl.where(a == most, 1.0, tl.exp(a.to(tl.float64) - most.to(tl.float64)))
    right = tl.where(c == most, 1.0, tl.exp(c.to(tl.float64) - most.to(tl.float64)))
    return most, b * left + d * right


NAMES: dict[str, Any] = {
    "plus": plus, "times": times, "larger": larger, "smaller": smaller, "exponentials": exponentials,
}  # fmt: skip
