"""W8A8 linear on the int8 tensor cores: `tl.dot` over tiles of weights, any M, N and K.

One program computes block_n outputs of block_m rows. The rows are padded to a tile of 16, which the tensor
cores need at least; the padding is masked in every load and store. K runs in steps of block_k, with the loads
of the next steps in flight (num_stages).
"""

from __future__ import annotations

from collections.abc import Iterator

import triton
import triton.language as tl

from rtaccel.core.registry import Impl, Prepared, register_impl
from rtaccel.core.stage import Problem, Stage
from rtaccel.kernels._gpu.triton_epilogue import Epilogue, epilogue
from rtaccel.kernels._gpu.triton_spec import (
    ASYNC_COPY,
    FUSED,
    INT8_MMA,
    WIDE_LOAD,
    Specialisation,
    Tiling,
    power_of_two,
)
from rtaccel.kernels.linear import contract
from rtaccel.kernels.linear.triton.w8a8 import KernelConfig, Operands, launcher, unsupported
from rtaccel.kernels.linear.triton.wide_config import MULTIPROCESSORS


@triton.jit(do_not_specialize=["rows", "y_zero_point"])
def dot_kernel(
    x_ptr, weight_ptr,
    y_ptr, multiplier_ptr, offset_ptr, compensation_ptr, row_scale_ptr, parameter, y_inv_scale, y_zero_point, rows,
    N: tl.constexpr, ACTIVATION: tl.constexpr, INT8_OUT: tl.constexpr, ASM: tl.constexpr, K: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    PADDED_K: tl.constexpr = (K + 15) // 16 * 16
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    in_n, in_m = n < N, m < rows
    x_tile = x_ptr + m[:, None].to(tl.int64) * K + k[None, :]
    w_tile = weight_ptr + n[:, None].to(tl.int64) * PADDED_K + k[None, :]

    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.int32)
    for k0 in range(0, K, BLOCK_K):
        at = k0 + k[None, :]
        x = tl.load(x_tile + k0, mask=in_m[:, None] & (at < K), other=0)  # [BLOCK_M, BLOCK_K]
        w = tl.load(w_tile + k0, mask=in_n[:, None] & (at < PADDED_K), other=0)  # [BLOCK_N, BLOCK_K]
        acc = tl.dot(x, tl.trans(w), acc, out_dtype=tl.int32)  # [BLOCK_M, BLOCK_N]

    epilogue(acc, m, in_m, n, None, Epilogue(
        y_ptr, multiplier_ptr, offset_ptr, compensation_ptr, row_scale_ptr, None, parameter, y_inv_scale, y_zero_point, N,
        ACTIVATION, INT8_OUT, ASM,
    ))  # fmt: skip


def tiling(problem: Problem) -> Tiling:
    """Narrow tiles of N, so that a small layer still spreads over many multiprocessors; wide ones where rows do that, so that
    each row is read less often. Not measured on a card."""
    k, n, m = problem.in_widths[0], problem.out_widths[0], problem.matrix_rows
    spread = triton.cdiv(m, 64) * triton.cdiv(n, 64) >= MULTIPROCESSORS
    return Tiling(
        block_m=power_of_two(m, 16, 64),
        block_n=power_of_two(n, 16, 64) if spread else 16 if n <= 512 else 32 if n <= 2048 else 64,
        block_k=power_of_two(k, 32, 128 if m > 16 else 256),
        num_warps=4,
        num_stages=3 if k > 256 else 1,
    )


def specialize(problem: Problem) -> Specialisation:
    config, tile = KernelConfig.of(problem), tiling(problem)
    return Specialisation(
        name=f"linear_dot_M{tile.block_m}_{config}",
        kernel=dot_kernel,
        signature=config.signature(),
        constants={
            **config.constants, "BLOCK_M": tile.block_m, "BLOCK_N": tile.block_n, "BLOCK_K": tile.block_k,
        },
        tiling=tile,
    )  # fmt: skip


def prepare(stage: Stage, problem: Problem) -> Prepared:
    """x int8 [M, K] and, with dynamic rows, row_scale float32 [M, 1] -> y [M, N]; any M, not only the problem's."""
    ops = Operands.of(stage, problem)
    return launcher(ops, specialize(problem), ops.weight)


def specializations() -> Iterator[Specialisation]:
    """The forms that are compiled and held to a budget without a GPU."""
    for (k, n, scheme, activation, out), rows, requires, forbids in (
        ((128, 128, "static", "relu", "int8"), 8, (INT8_MMA, WIDE_LOAD), (FUSED,)),
        ((1024, 1024, "dynamic", "gelu", "float32"), 16, (INT8_MMA, ASYNC_COPY), ()),
        ((1024, 1024, "static", "relu", "int8"), 64, (INT8_MMA, ASYNC_COPY), ()),
        ((130, 33, "static", "none", "float32"), 1, (INT8_MMA, WIDE_LOAD), (FUSED,)),
        ((96, 384, "static", "relu", "int8"), 3136, (INT8_MMA, WIDE_LOAD), (FUSED,)),
    ):
        stage = contract.make_stage(k, n, scheme, activation, out=out)
        yield specialize(Problem.of(stage, rows, "cuda")).with_requirements(*requires, forbids=forbids)


register_impl(Impl("linear", "triton_dot", "triton", 10, unsupported, prepare))
