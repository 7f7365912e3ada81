"""W8A8 convolution over windows in Triton: an implicit GEMM on the int8 tensor cores, for sequences and images, one group.

One program computes block_n channels of block_m positions, of one sample or of several. The sum runs over taps and channels as
one axis, k = tap * C + c: a layer of one or two channels fills its tiles as one of many does, and nothing is unfolded in memory.
Each element of a tile finds its own row of x; where all rows of the image are there, from k and the position by arithmetic with
constants, else (in_steps, out_steps, out_rows) through a table [out steps, taps].

Dynamic samples come as int8 numbers and a scale each (triton/window_config.py). Padding is the zero point, so that the
compensation of kernels/linear/triton/w8a8.py, -zero_point times the sum of all weights of an output, holds at the edges too.
"""

from __future__ import annotations

from collections.abc import Iterator

import triton
import triton.language as tl
from torch import Tensor

from rtaccel.core.registry import Impl, Prepared, register_impl
from rtaccel.core.stage import Problem, Stage, Value
from rtaccel.kernels._gpu.triton_device import to_int8
from rtaccel.kernels._gpu.triton_epilogue import Epilogue
from rtaccel.kernels._gpu.triton_spec import FUSED, INT8_MMA, WIDE_LOAD, Specialisation, Tiling, power_of_two
from rtaccel.kernels.conv import cases, fusion
from rtaccel.kernels.conv.triton.window_config import (
    geometry_of,
    give_mark,
    launcher,
    specialize_window,
    steps_and_channels,
    unsupported,
    window_epilogue,
)
from rtaccel.kernels.linear.triton.w8a8 import pad_rows


@triton.jit(do_not_specialize=["samples", "x_zero_point", "y_zero_point"])
def window_kernel(
    x_ptr, weight_ptr, table_ptr, sample_scale_ptr,
    y_ptr, multiplier_ptr, offset_ptr, compensation_ptr, residual_ptr, parameter, y_inv_scale, y_zero_point,
    samples, x_inv_scale, x_zero_point, mark_ptr,
    N: tl.constexpr, ACTIVATION: tl.constexpr, INT8_OUT: tl.constexpr, ASM: tl.constexpr, WINDOW: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    C: tl.constexpr = WINDOW.C
    TAPS: tl.constexpr = WINDOW.KERNEL[0] * WINDOW.KERNEL[1]
    K: tl.constexpr = TAPS * C
    PADDED_K: tl.constexpr = (K + 15) // 16 * 16
    m = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    end = K
    if mark_ptr is not None:  # by programs behind those that compute
        looks = tl.program_id(0) - tl.cdiv(samples.to(tl.int64) * WINDOW.POSITIONS, BLOCK_M)
        if (looks >= 0) & (tl.program_id(1) == 0):
            give_mark(x_ptr, mark_ptr, looks, WINDOW.STEPS * WINDOW.C)
        end = tl.where(looks >= 0, 0, K)
    in_n, in_m = n < N, m < samples.to(tl.int64) * WINDOW.POSITIONS
    sample, position = m // WINDOW.POSITIONS, (m % WINDOW.POSITIONS).to(tl.int32)
    first_row = (sample * WINDOW.STEPS)[:, None]
    top = (position // WINDOW.OUT_WIDTH * WINDOW.STRIDE[0] - WINDOW.PADDING[0])[:, None]
    left = (position % WINDOW.OUT_WIDTH * WINDOW.STRIDE[1] - WINDOW.PADDING[1])[:, None]

    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.int32)
    for k0 in range(0, end, BLOCK_K):
        k = k0 + tl.arange(0, BLOCK_K)
        tap, c = k // C, k % C
        if table_ptr is not None:
            at = table_ptr + position[:, None] * TAPS + tap[None, :]
            row = tl.load(at, mask=in_m[:, None] & (k < K)[None, :], other=-1)  # [BLOCK_M, BLOCK_K]
            inside = row >= 0
        else:
            across = top + (tap // WINDOW.KERNEL[1] * WINDOW.DILATION[0])[None, :]
            along = left + (tap % WINDOW.KERNEL[1] * WINDOW.DILATION[1])[None, :]
            inside = (across >= 0) & (across < WINDOW.SIZE[0]) & (along >= 0) & (along < WINDOW.SIZE[1])
            inside = inside & in_m[:, None] & (k < K)[None, :]
            row = across * WINDOW.SIZE[1] + along
        x = tl.load(x_ptr + (first_row + row) * C + c[None, :], mask=inside, other=0)  # [BLOCK_M, BLOCK_K]
        if x.dtype == tl.float32:
            x = to_int8(x * x_inv_scale, x_zero_point)
        q = tl.where(inside, x.to(tl.int32), x_zero_point).to(tl.int8)
        w_at = weight_ptr + n[:, None].to(tl.int64) * PADDED_K + k[None, :]
        w = tl.load(w_at, mask=in_n[:, None] & (k < PADDED_K)[None, :], other=0)  # [BLOCK_N, BLOCK_K]
        acc = tl.dot(q, tl.trans(w), acc, out_dtype=tl.int32)  # [BLOCK_M, BLOCK_N]

    window_epilogue(acc, m, in_m, n, sample, sample_scale_ptr, Epilogue(
        y_ptr, multiplier_ptr, offset_ptr, compensation_ptr, None, residual_ptr, parameter, y_inv_scale, y_zero_point, N,
        ACTIVATION, INT8_OUT, ASM, True,
    ))  # fmt: skip


def supports(problem: Problem) -> str | None:
    reason = unsupported(problem)
    if reason is None and int(problem.attrs.get("groups", 1)) != 1:
        return f"computes one group, not {problem.attrs['groups']}"
    return reason


def tiling(positions: int, n: int, k: int) -> Tiling:
    """Positions of all samples. Narrow tiles of N, so that short windows spread too. Not measured on a card."""
    return Tiling(
        block_m=power_of_two(positions, 16, 64),
        block_n=16 if n <= 64 else 32 if n <= 256 else 64,
        block_k=power_of_two(k, 32, 128),
        num_warps=4,
        num_stages=3 if k > 256 else 1,
    )


def specialize(problem: Problem) -> Specialisation:
    n, k = problem.out_widths[0], geometry_of(problem).taps * steps_and_channels(problem)[1]
    tile = tiling(problem.rows * problem.out_steps[0], n, k)
    return specialize_window("conv_window", window_kernel, problem, tile, BLOCK_K=tile.block_k)


def pack(weight: Tensor) -> Tensor:
    """[N, taps * C padded to 16 bytes]."""
    return pad_rows(weight.permute(0, 2, 3, 1).reshape(weight.shape[0], -1))


def prepare(stage: Stage, problem: Problem) -> Prepared:
    """x int8 or float32 [M, in steps, C], other float32 [M, out steps, N] -> y; any M, tiles for problem.rows."""
    return launcher(stage, problem, specialize(problem), pack)


def specializations() -> Iterator[Specialisation]:
    """The forms that are compiled and held to a budget without a GPU."""
    causal = cases.Shape(64, 64, (1, 100), (1, 3), dilation=(1, 4), causal=True)
    few = cases.Shape(1, 32, (1, 400), (1, 8), stride=(1, 4), causal=True)
    newest = cases.Shape(48, 48, (1, 64), (1, 3), dilation=(1, 8), causal=True, live=(47, 63))
    for shape, scheme, out, residual, requires in (
        (causal, "static", "int8", True, (INT8_MMA, WIDE_LOAD)),
        (few, "self", "int8", False, (INT8_MMA,)),
        (newest, "static", "float32", False, (INT8_MMA, WIDE_LOAD)),
        (causal, "dynamic", "float32", False, (INT8_MMA, WIDE_LOAD)),
    ):
        stage = cases.make_stage(shape, scheme, "relu", out=out, residual=residual)
        yield specialize(Problem.of(stage, 1, "cuda")).with_requirements(*requires, forbids=(FUSED,))
    gives = fusion.give_mark(cases.make_stage(few, "self", "relu", out="int8"), Value("mark", 1))
    takes = fusion.take_mark(cases.make_stage(causal, "static", "relu"), Value("mark", 1))
    for marked in (gives, takes):
        assert marked is not None
        yield specialize(Problem.of(marked, 1, "cuda")).with_requirements(INT8_MMA, forbids=(FUSED,))


register_impl(Impl("conv", "triton_window", "triton", 10, supports, prepare))
