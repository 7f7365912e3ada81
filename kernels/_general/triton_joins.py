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


NAMES: dict[str, Any] = {"plus": plus, "times": times, "larger": larger, "smaller": smaller}
