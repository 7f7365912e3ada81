"""Marks of streams that met what int8 cannot hold: for how many further steps each one's results are NaN."""

from __future__ import annotations

from collections.abc import Callable

import triton
import triton.language as tl
from torch import Tensor

from rtaccel.kernels._gpu.triton_launch import bind
from rtaccel.kernels._gpu.triton_spec import Specialisation, Tiling, power_of_two

INFINITY_BITS = tl.constexpr(0x7F800000)
BLOCK = 256


@triton.jit
def marks_kernel(mark_ptr, left_ptr, M, MEMORY: tl.constexpr, BLOCK: tl.constexpr):
    """mark: NaN where a stream met what int8 cannot hold, and behind it where its results are NaN. left: steps for which that
    lasts, -1 for ever."""
    m = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mark = tl.load(mark_ptr + m, mask=m < M, other=0.0)
    left = tl.load(left_ptr + m, mask=m < M, other=0)
    now = (mark.to(tl.int32, bitcast=True) & 0x7FFFFFFF) >= INFINITY_BITS
    tl.store(mark_ptr + m, tl.where(now | (left != 0), float("nan"), 0.0), mask=m < M)
    tl.store(left_ptr + m, tl.where(now, MEMORY, tl.where(left > 0, left - 1, left)), mask=m < M)


@triton.jit
def settling_kernel(mark_ptr, state_ptr, N: tl.constexpr, BLOCK_N: tl.constexpr):
    """Zeros in place of what is not finite in the states of a marked stream: its mark says from here on how long it is felt."""
    row = tl.program_id(0).to(tl.int64)
    n = tl.arange(0, BLOCK_N)
    bits = tl.load(mark_ptr + row).to(tl.int32, bitcast=True) & 0x7FFFFFFF
    end = tl.where(bits >= INFINITY_BITS, N, 0)
    for n0 in range(0, N, BLOCK_N):
        inside = n0 + n < end
        state = tl.load(state_ptr + row * N + n0 + n, mask=inside, other=0.0)
        finite = (state.to(tl.int32, bitcast=True) & 0x7FFFFFFF) < INFINITY_BITS
        tl.store(state_ptr + row * N + n0 + n, tl.zeros((BLOCK_N,), tl.float32), mask=inside & ~finite)


def settling(n: int) -> Specialisation:
    """For streams whose state has n numbers."""
    block = power_of_two(n, 32, 4096)
    return Specialisation(
        name=f"settle_N{n}",
        kernel=settling_kernel,
        signature={"mark_ptr": "*fp32", "state_ptr": "*fp32"},
        constants={"N": n, "BLOCK_N": block},
        tiling=Tiling(1, block, 1, num_warps=power_of_two(block // 128, 1, 8)),
    )


def settler(n: int) -> Callable[[Tensor, Tensor], None]:
    """settle(mark, state): mark float32 [streams, 1]; state float32 [streams, ...] of n numbers each, written over."""
    launch = bind(settling(n))

    def settle(mark: Tensor, state: Tensor) -> None:
        launch((state.shape[0],), mark_ptr=mark, state_ptr=state)

    return settle


def specialize(memory: int) -> Specialisation:
    return Specialisation(
        name=f"marks_{'forever' if memory < 0 else memory}",
        kernel=marks_kernel,
        signature={"mark_ptr": "*fp32", "left_ptr": "*i32", "M": "i32"},
        constants={"MEMORY": memory, "BLOCK": BLOCK},
        tiling=Tiling(1, BLOCK, 1, num_warps=4),
    )


def marker(memory: int) -> Callable[[Tensor, Tensor], None]:
    """advance(mark, left), both written over: mark float32 [streams, 1], left int32 [streams]."""
    launch = bind(specialize(memory))

    def advance(mark: Tensor, left: Tensor) -> None:
        launch((triton.cdiv(left.numel(), BLOCK),), mark_ptr=mark, left_ptr=left, M=left.numel())

    return advance
