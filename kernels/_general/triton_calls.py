"""The calls of streams, counted in a launch of its own, where no launch looks at the streams anyway."""

from __future__ import annotations

from collections.abc import Callable

import triton
import triton.language as tl
from torch import Tensor

from rtaccel.kernels._gpu.triton_launch import bind
from rtaccel.kernels._gpu.triton_spec import Specialisation, Tiling

BLOCK = 128
"""Streams of a program: one for each thread, which alone reads the count that it writes."""


@triton.jit(do_not_specialize=["samples"])
def count_calls_kernel(tick_ptr, samples, BLOCK: tl.constexpr):
    m = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    tl.store(tick_ptr + m, tl.load(tick_ptr + m, mask=m < samples, other=0) + 1, mask=m < samples)


def specialize() -> Specialisation:
    return Specialisation(
        name="count_calls",
        kernel=count_calls_kernel,
        signature={"tick_ptr": "*i64", "samples": "i32"},
        constants={"BLOCK": BLOCK},
        tiling=Tiling(1, 1, BLOCK, num_warps=BLOCK // 32),
    )


def calls_counter() -> Callable[[Tensor], None]:
    """count(ticks), int64 [streams, 1]: one more call of each."""
    launch = bind(specialize())

    def count(ticks: Tensor) -> None:
        samples = ticks.numel()
        if samples:
            launch((triton.cdiv(samples, BLOCK),), tick_ptr=ticks, samples=samples)

    return count
