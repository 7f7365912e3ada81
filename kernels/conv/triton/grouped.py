"""W8A8 convolution in groups over windows in Triton, depthwise above all, without tensor cores.

Each output of a depthwise layer sums as many products as it has taps, so there is nothing that a tensor core could share. A tile
is [positions, outputs]; each step adds one tap of one channel of each output's group: neighboring outputs of a depthwise layer
read neighboring bytes of x, and the weights lie in the order of the steps, [taps * channels of a group, N]. Everything else is
as in triton/window.py.
"""

from __future__ import annotations

from collections.abc import Iterator

import triton
import triton.language as tl
from torch import Tensor

from rtaccel.core.registry import Impl, Prepared, register_impl
from rtaccel.core.stage import Problem, Stage
from rtaccel.kernels._gpu.triton_device import to_int8
from rtaccel.kernels._gpu.triton_epilogue import Epilogue
from rtaccel.kernels._gpu.triton_spec import FUSED, Specialisation, Tiling, power_of_two
from rtaccel.kernels.conv import cases
from rtaccel.kernels.conv.triton.window_config import (
    give_mark,
    launcher,
    specialize_window,
    unsupported,
    window_epilogue,
)


@triton.jit(do_not_specialize=["samples", "x_zero_point", "y_zero_point"])
def grouped_kernel(
    x_ptr, weight_ptr, table_ptr, sample_scale_ptr,
    y_ptr, multiplier_ptr, offset_ptr, compensation_ptr, residual_ptr, parameter, y_inv_scale, y_zero_point,
    samples, x_inv_scale, x_zero_point, mark_ptr,
    N: tl.constexpr, ACTIVATION: tl.constexpr, INT8_OUT: tl.constexpr, ASM: tl.constexpr, WINDOW: tl.constexpr,
    GROUPS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    TAPS: tl.constexpr = WINDOW.KERNEL[0] * WINDOW.KERNEL[1]
    EACH: tl.constexpr = WINDOW.C // GROUPS
    m = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    end = TAPS * EACH
    if mark_ptr is not None:  # by programs behind those that compute
        looks = tl.program_id(0) - tl.cdiv(samples.to(tl.int64) * WINDOW.POSITIONS, BLOCK_M)
        if (looks >= 0) & (tl.program_id(1) == 0):
            give_mark(x_ptr, mark_ptr, looks, WINDOW.STEPS * WINDOW.C)
        end = tl.where(looks >= 0, 0, TAPS * EACH)
    in_n, in_m = n < N, m < samples.to(tl.int64) * WINDOW.POSITIONS
    sample, position = m // WINDOW.POSITIONS, (m % WINDOW.POSITIONS).to(tl.int32)
    top = position // WINDOW.OUT_WIDTH * WINDOW.STRIDE[0] - WINDOW.PADDING[0]
    left = position % WINDOW.OUT_WIDTH * WINDOW.STRIDE[1] - WINDOW.PADDING[1]
    channel = n // (N // GROUPS) * EACH

    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.int32)
    for k in range(end):
        tap, c = k // EACH, k % EACH
        if table_ptr is not None:
            row = tl.load(table_ptr + position * TAPS + tap, mask=in_m, other=-1)  # [BLOCK_M]
            inside = row >= 0
        else:
            across = top + tap // WINDOW.KERNEL[1] * WINDOW.DILATION[0]
            along = left + tap % WINDOW.KERNEL[1] * WINDOW.DILATION[1]
            inside = in_m & (across >= 0) & (across < WINDOW.SIZE[0]) & (along >= 0) & (along < WINDOW.SIZE[1])
            row = across * WINDOW.SIZE[1] + along
        there = inside[:, None] & in_n[None, :]
        x_tile = x_ptr + ((sample * WINDOW.STEPS + row) * WINDOW.C)[:, None] + (channel + c)[None, :]
        x = tl.load(x_tile, mask=there, other=0)  # [BLOCK_M, BLOCK_N]
        if x.dtype == tl.float32:
            x = to_int8(x * x_inv_scale, x_zero_point)
        q = tl.where(there, x.to(tl.int32), x_zero_point)
        w = tl.load(weight_ptr + k * N + n, mask=in_n, other=0)  # [BLOCK_N]
        acc += q * w.to(tl.int32)[None, :]

    window_epilogue(acc, m, in_m, n, sample, sample_scale_ptr, Epilogue(
        y_ptr, multiplier_ptr, offset_ptr, compensation_ptr, None, residual_ptr, parameter, y_inv_scale, y_zero_point, N,
        ACTIVATION, INT8_OUT, ASM, True,
    ))  # fmt: skip


def supports(problem: Problem) -> str | None:
    reason = unsupported(problem)
    if reason is None and int(problem.attrs.get("groups", 1)) == 1:
        return "computes several groups, not one"
    return reason


def specialize(problem: Problem) -> Specialisation:
    """Not measured on a card."""
    n, positions = problem.out_widths[0], problem.rows * problem.out_steps[0]
    tile = Tiling(power_of_two(positions, 1, 16), power_of_two(n, 32, 64), 1, num_warps=4)
    groups = int(problem.attrs["groups"])
    return specialize_window(f"conv_grouped_G{groups}", grouped_kernel, problem, tile, GROUPS=groups)


def pack(weight: Tensor) -> Tensor:
    """[taps * channels of a group, N]."""
    return weight.permute(2, 3, 1, 0).reshape(-1, weight.shape[0])


def prepare(stage: Stage, problem: Problem) -> Prepared:
    """x int8 or float32 [M, in steps, C], other float32 [M, out steps, N] -> y; any M, tiles for problem.rows."""
    return launcher(stage, problem, specialize(problem), pack)


def specializations() -> Iterator[Specialisation]:
    """The forms that are compiled and held to a budget without a GPU."""
    depthwise = cases.Shape(64, 64, (25, 5), (3, 3), padding=(1, 1), groups=64)
    causal = cases.Shape(32, 64, (1, 100), (1, 3), dilation=(1, 4), causal=True, groups=8)
    for shape, scheme, out, residual, forbids in (
        (depthwise, "static", "int8", False, (FUSED,)),
        (causal, "dynamic", "float32", True, (FUSED,)),
    ):
        stage = cases.make_stage(shape, scheme, "relu", out=out, residual=residual)
        yield specialize(Problem.of(stage, 1, "cuda")).with_requirements(forbids=forbids)


register_impl(Impl("conv", "triton_grouped", "triton", 10, supports, prepare))
