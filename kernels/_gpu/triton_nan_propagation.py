"""Rows that int8 cannot hold: one launch that makes every float output of such a row NaN.

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
