"""Linear layers in float32: bias and activation in the same launch, on FFMA units, for fewer products than cuBLAS is for.

Up to four rows are computed each by itself: a warp reads its outputs' weights along K, once for each row. More rows are tiles.
Sums are float32 from end to end; nothing goes through tensor cores, which would round x.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from rtaccel.core.registry import Impl, Prepared, register_impl
from rtaccel.core.stage import Problem, Stage
from rtaccel.core.weight_format import WeightFormat
from rtaccel.kernels._gpu.triton_activations import activate
from rtaccel.kernels._gpu.triton_launch import bind
from rtaccel.kernels._gpu.triton_spec import (
    MAX_N,
    WIDE_LOAD,
    Specialisation,
    Tiling,
    ffma_tiling,
    power_of_two,
    require_matrix,
)
from rtaccel.kernels.linear import contract
from rtaccel.kernels.linear.triton.blas import FEWEST_ROWS

FEW = 4
"""Rows up to which each is computed by itself."""

MOST = 2**27
"""Operations up to which one launch is worth more than cuBLAS's higher share of the peak: some 8 us of a card that does 16
TFLOP/s here. Not measured."""


@triton.jit(do_not_specialize=["rows"])
def linear_float32_kernel(
    x_ptr, weight_ptr, bias_ptr, y_ptr, parameter, rows,
    N: tl.constexpr, K: tl.constexpr, ACTIVATION: tl.constexpr, ALONE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    if ALONE:
        m = tl.program_id(0).to(tl.int64)
        n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)[:, None]
        acc = tl.zeros((BLOCK_N, BLOCK_K), tl.float32)
        for k0 in range(0, K, BLOCK_K):
            k = k0 + tl.arange(0, BLOCK_K)[None, :]
            # With the shape of the weights, so that both have one layout.
            x = tl.load(x_ptr + m * K + k + tl.zeros((BLOCK_N, BLOCK_K), tl.int32), mask=k < K, other=0.0)
            acc += x * tl.load(weight_ptr + n.to(tl.int64) * K + k, mask=(n < N) & (k < K), other=0.0)
        t = tl.sum(acc, 1, keep_dims=True) + tl.load(bias_ptr + n, mask=n < N, other=0.0)
        tl.store(y_ptr + m * N + n, activate(t, parameter, ACTIVATION), mask=n < N)
    else:
        m = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)[:, None]
        n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
        acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        for k0 in range(0, K, BLOCK_K):
            k = k0 + tl.arange(0, BLOCK_K)
            x = tl.load(x_ptr + m * K + k[None, :], mask=(m < rows) & (k[None, :] < K), other=0.0)
            w = tl.load(weight_ptr + n.to(tl.int64) * K + k[:, None], mask=(n < N) & (k[:, None] < K), other=0.0)
            acc = tl.dot(x, w, acc, input_precision="ieee")
        t = acc + tl.load(bias_ptr + n, mask=n < N, other=0.0)
        tl.store(y_ptr + m * N + n, activate(t, parameter, ACTIVATION), mask=(m < rows) & (n < N))


def supports(problem: Problem) -> str | None:
    if problem.weight_format is not WeightFormat.FLOAT32 or problem.in_dtypes != ("float32",):
        return "computes float32 x and weights"
    operations = 2 * problem.matrix_rows * problem.in_widths[0] * problem.out_widths[0]
    if problem.matrix_rows >= FEWEST_ROWS and operations > MOST:
        return f"leaves more than {MOST} operations of M >= {FEWEST_ROWS} to cuBLAS, here {operations}"
    if problem.out_widths[0] > MAX_N or not problem.in_widths[0] * problem.out_widths[0]:
        return f"has at most 65535 programs along N, for N in 1..{MAX_N}, not N = {problem.out_widths[0]}"
    return None


def specialize(problem: Problem) -> Specialisation:
    activation = problem.attrs.get("activation", "none")
    return form(problem.matrix_rows, problem.out_widths[0], problem.in_widths[0], activation)


def form(rows: int, n: int, k: int, activation: str = "none") -> Specialisation:
    """For about so many rows; it takes any number."""
    alone = rows <= FEW
    tile = Tiling(1, 8, power_of_two(k, 32, 256), num_warps=4) if alone else ffma_tiling(rows, n, k)
    return Specialisation(
        name=f"linear_float32_M{tile.block_m}_N{n}_K{k}_{activation}",
        kernel=linear_float32_kernel,
        signature={
            "x_ptr": "*fp32", "weight_ptr": "*fp32", "bias_ptr": "*fp32", "y_ptr": "*fp32", "parameter": "fp32",
            "rows": "i32",
        },
        constants={
            "N": n, "K": k, "ACTIVATION": activation, "ALONE": alone, "BLOCK_M": tile.block_m, "BLOCK_N": tile.block_n,
            "BLOCK_K": tile.block_k,
        },
        tiling=tile,
    )  # fmt: skip


def prepare(stage: Stage, problem: Problem) -> Prepared:
    """x float32 [M, K] -> y float32 [M, N]; any M."""
    low, spec, (k, n) = contract.lower(stage), specialize(problem), (problem.in_widths[0], problem.out_widths[0])
    launch, tile = bind(spec), spec.tiling
    weight, bias = (low[name].to(problem.device).contiguous() for name in ("weight", "bias"))
    parameter = low["activation_parameter"]

    def call(x: Tensor) -> tuple[Tensor]:
        require_matrix("linear", x, k, torch.float32)
        y = torch.empty((x.shape[0], n), dtype=torch.float32, device=x.device)
        if x.shape[0]:
            grid = (triton.cdiv(x.shape[0], tile.block_m), triton.cdiv(n, tile.block_n))
            launch(grid, x_ptr=x, weight_ptr=weight, bias_ptr=bias, y_ptr=y, parameter=parameter, rows=x.shape[0])
        return (y,)

    return call


def specializations() -> Iterator[Specialisation]:
    """The forms that are compiled and held to a budget without a GPU."""
    stage = contract.make_stage(512, 256, "float32", "relu")
    yield specialize(Problem.of(stage, 1, "cuda")).with_requirements(WIDE_LOAD)
    yield specialize(Problem.of(stage, 16, "cuda"))
    yield specialize(Problem.of(contract.make_stage(64, 1024, "float32", "relu"), 1024, "cuda"))


register_impl(Impl("linear", "triton_float32", "triton", 15, supports, prepare))
