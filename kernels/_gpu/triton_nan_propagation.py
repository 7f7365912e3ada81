"""Rows that int8 cannot hold: one launch that makes every float output of such a row NaN; of streams, for how many steps more.

Static int8 has no number for a NaN or an infinity, so a plan looks at the float32 values that were quantized and marks
their rows at the end. In torch that is four launches or more per value.
"""

from __future__ import annotations

from collections.abc import Callable

import triton
import triton.language as tl
from torch import Tensor

from rtaccel.kernels._gpu.triton_launch import bind
from rtaccel.kernels._gpu.triton_spec import Specialisation, Tiling, power_of_two

INFINITY_BITS = tl.constexpr(0x7F800000)


@triton.jit
def nan_propagation_kernel(
    x_ptr, y_ptr, K: tl.constexpr, N: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_N: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    k, n = tl.arange(0, BLOCK_K)[None, :], tl.arange(0, BLOCK_N)[None, :]
    bits = tl.zeros((1, BLOCK_K), tl.int32)
    for k0 in range(0, K, BLOCK_K):
        x = tl.load(x_ptr + row * K + k0 + k, mask=k0 + k < K, other=0.0)
        bits = tl.maximum(bits, x.to(tl.int32, bitcast=True) & 0x7FFFFFFF)
    bad = tl.max(bits, 1, keep_dims=True) >= INFINITY_BITS
    for n0 in range(0, N, BLOCK_N):
        nonfinite = tl.full((1, BLOCK_N), float("nan"), tl.float32)
        tl.store(y_ptr + row * N + n0 + n, nonfinite, mask=(n0 + n < N) & bad)


def specialize(k: int, n: int) -> Specialisation:
    """For samples of k checked numbers and n float outputs."""
    block_k, block_n = power_of_two(k, 32, 4096), power_of_two(n, 32, 4096)
    return Specialisation(
        name=f"propagate_nan_K{k}_N{n}",
        kernel=nan_propagation_kernel,
        signature={"x_ptr": "*fp32", "y_ptr": "*fp32"},
        constants={"K": k, "N": n, "BLOCK_K": block_k, "BLOCK_N": block_n},
        tiling=Tiling(1, block_n, block_k, num_warps=power_of_two(max(block_k, block_n) // 128, 1, 8)),
    )


def nan_propagator(k: int, n: int) -> Callable[[Tensor, Tensor], None]:
    """propagate_nan(x, y): y float32 [samples, ...] of n numbers a sample becomes NaN where its sample of
    x float32 [samples, ...], of k numbers, holds a NaN or an infinity."""
    launch = bind(specialize(k, n))

    def propagate_nan(x: Tensor, y: Tensor) -> None:
        if x.numel() and y.numel():
            launch((x.shape[0],), x_ptr=x, y_ptr=y)

    return propagate_nan


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
    """Zeros in place of what is not finite in the states of a marked stream: its mark says from here on how long that lasts."""
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


def counting(memory: int) -> Specialisation:
    return Specialisation(
        name=f"marks_{'forever' if memory < 0 else memory}",
        kernel=marks_kernel,
        signature={"mark_ptr": "*fp32", "left_ptr": "*i32", "M": "i32"},
        constants={"MEMORY": memory, "BLOCK": BLOCK},
        tiling=Tiling(1, BLOCK, 1, num_warps=4),
    )


def marker(memory: int) -> Callable[[Tensor, Tensor], None]:
    """advance(mark, left), both written over: mark float32 [streams, 1], left int32 [streams]."""
    launch = bind(counting(memory))

    def advance(mark: Tensor, left: Tensor) -> None:
        launch((triton.cdiv(left.numel(), BLOCK),), mark_ptr=mark, left_ptr=left, M=left.numel())

    return advance
