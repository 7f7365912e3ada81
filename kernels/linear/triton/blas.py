"""Hand-over to cuBLAS for many rows: the product is torch's, what follows it is one Triton kernel.

From some number of rows the time is that of the tensor cores, not of the weights, and there nothing here is held to be
faster than the vendor's library. int8 x int8 goes to `torch._int_mm` (int32 sums, exact). float32 x is rounded to bfloat16
and multiplied by the weight in bfloat16, with sums and results in float32: an int8 weight is exact so, an int4 one is spread
out once, its q * scale rounded to 8 bits. That needs more memory than the format saves, and `explain()` shows the name of
this kernel.

W4A8 has no such form: its sums over a group are whole numbers by contract.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from rtaccel.core import settings
from rtaccel.core.registry import Impl, Prepared, register_impl
from rtaccel.core.stage import Problem, Stage
from rtaccel.core.weight_format import WeightFormat
from rtaccel.kernels._gpu.triton_epilogue import Epilogue, epilogue, epilogue_types
from rtaccel.kernels._gpu.triton_launch import bind
from rtaccel.kernels._gpu.triton_spec import MAX_N, WIDE_LOAD, Specialisation, Tiling, leave_out, power_of_two
from rtaccel.kernels.linear import contract, contract_weights
from rtaccel.kernels.linear.triton.mixed_config import KernelConfig, Operands

FEWEST_ROWS = 128
"""Rows from which the product is handed over. Not measured on a card: below it a tile of 64 rows still reads each weight at
most twice."""

MOST = 2**27
"""Operations of W8A8 up to which one launch is worth more than cuBLAS's share of the peak, with its sums in memory and an
epilogue that reads them: as float32 has it. Not measured."""


@triton.jit(do_not_specialize=["rows", "y_zero_point"])
def epilogue_kernel(
    acc_ptr,
    y_ptr, multiplier_ptr, offset_ptr, compensation_ptr, row_scale_ptr, parameter, y_inv_scale, y_zero_point, rows,
    N: tl.constexpr, ACTIVATION: tl.constexpr, INT8_OUT: tl.constexpr, ASM: tl.constexpr, ACC_STRIDE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    in_m = m < rows
    acc_tile = acc_ptr + m[:, None].to(tl.int64) * ACC_STRIDE + n[None, :]
    acc = tl.load(acc_tile, mask=in_m[:, None] & (n < N)[None, :], other=0)  # [BLOCK_M, BLOCK_N]
    epilogue(acc, m, in_m, n, None, Epilogue(
        y_ptr, multiplier_ptr, offset_ptr, compensation_ptr, row_scale_ptr, None, parameter, y_inv_scale, y_zero_point, N,
        ACTIVATION, INT8_OUT, ASM,
    ))  # fmt: skip


def supports(problem: Problem) -> str | None:
    if problem.matrix_rows < FEWEST_ROWS:
        return f"hands the product to cuBLAS from M = {FEWEST_ROWS}, here M = {problem.matrix_rows}"
    if problem.out_widths[0] > MAX_N:
        return f"has at most 65535 programs along N, for N <= {MAX_N}, not N = {problem.out_widths[0]}"
    if problem.weight_format not in (WeightFormat.INT8, WeightFormat.INT4, WeightFormat.BFLOAT16):
        return f"has no form for {problem.weight_format} weights"
    if problem.weight_format is WeightFormat.INT4 and problem.in_dtypes[0] == "int8":
        return "W4A8 keeps its sums over groups in whole numbers, which cuBLAS has no product for"
    if problem.weight_format is WeightFormat.INT8 and problem.in_dtypes[0] == "int8":
        operations = 2 * problem.matrix_rows * problem.in_widths[0] * problem.out_widths[0]
        if operations <= MOST:
            return (
                f"hands W8A8 to cuBLAS from {MOST} operations, here {operations}: less is one launch with its epilogue"
            )
        if problem.in_widths[0] % 16 or problem.matrix_rows % 8:
            own = f"{problem.in_widths[0]} and {problem.matrix_rows}"
            return f"would copy x for cuBLAS, which takes K % 16 == 0 and M % 8 == 0, not {own}"
    if problem.in_dtypes[0] == "int8" and problem.in_widths[0] > contract.MAX_K:
        return f"sums in int32, which holds K <= {contract.MAX_K}, not K = {problem.in_widths[0]}"
    return None


def specialize(config: KernelConfig, stride: int) -> Specialisation:
    tile = Tiling(16, power_of_two(config.n, 16, 128), 1, num_warps=4)
    signature, absent = leave_out(
        {
            "acc_ptr": "*i32" if config.x == "int8" else "*fp32",
            **epilogue_types(config.int8_out, "compensation_ptr", "row_scale_ptr"), "rows": "i32",
        },
        compensation_ptr=config.compensated, row_scale_ptr=config.scaled,
    )  # fmt: skip
    return Specialisation(
        name=f"linear_blas_{config}",
        kernel=epilogue_kernel,
        signature=signature,
        constants={
            "N": config.n, "ACTIVATION": config.activation, "INT8_OUT": config.int8_out, "ASM": not settings.triton_interpret(),
            "ACC_STRIDE": stride, "BLOCK_M": tile.block_m, "BLOCK_N": tile.block_n, **absent,
        },
        tiling=tile,
    )  # fmt: skip


def _up(n: int, to: int) -> int:
    return -(-n // to) * to


def _product(x: Tensor, weight: Tensor) -> Tensor:
    """x [M, K] times weight [K', N'], which is padded to multiples of 16: int32, or float32 of bfloat16 numbers."""
    k = weight.shape[0]
    rows = max(_up(x.shape[0], 8), 24) if x.dtype == torch.int8 else x.shape[0]  # cuBLAS takes int8 from 17 rows
    if (rows, k) != tuple(x.shape):
        x = torch.nn.functional.pad(x, (0, k - x.shape[1], 0, rows - x.shape[0]))
    if x.dtype == torch.int8:
        return torch._int_mm(x, weight)
    x = x.bfloat16()
    if x.is_cuda:
        return torch.mm(x, weight, out_dtype=torch.float32)
    return x.float() @ weight.float()  # CPU tensors, in the interpreter: the same numbers in float32


def prepare(stage: Stage, problem: Problem) -> Prepared:
    """x [M, K] and, with dynamic rows, row_scale float32 [M, 1] -> y [M, N]; any M."""
    config, low = KernelConfig.of_linear(problem), contract.lower(stage)
    ops = Operands.of(config, low, problem.matrix_rows, problem.device)
    dense = low["weight"] if config.x == "int8" else contract_weights.dense_weight(stage, low).bfloat16()
    padded = dense.new_zeros(_up(config.n, 16), _up(config.k, 16))
    padded[: config.n, : config.k] = dense
    weight = padded.to(problem.device).T  # as cuBLAS takes int8: the second factor by columns
    spec = specialize(config, padded.shape[0])
    launch, tile, dtype = bind(spec), spec.tiling, torch.int8 if config.int8_out else torch.float32
    pointers = {} if ops.compensation is None else {"compensation_ptr": ops.compensation}
    parameter, y_inv_scale, y_zero_point = ops.scalars

    def call(x: Tensor, *row_scale: Tensor) -> tuple[Tensor]:
        ops.check("linear", x, row_scale[0] if row_scale else None, None)
        y = torch.empty((x.shape[0], config.n), dtype=dtype, device=x.device)
        if y.numel():
            given = {"row_scale_ptr": row_scale[0]} if row_scale else {}
            grid = (triton.cdiv(x.shape[0], tile.block_m), triton.cdiv(config.n, tile.block_n))
            launch(
                grid, acc_ptr=_product(x, weight), y_ptr=y, multiplier_ptr=ops.multiplier, offset_ptr=ops.offset,
                rows=x.shape[0], parameter=parameter, y_inv_scale=y_inv_scale, y_zero_point=y_zero_point,
                **pointers, **given,
            )  # fmt: skip
        return (y,)

    return call


def specializations() -> Iterator[Specialisation]:
    """The forms that are compiled and held to a budget without a GPU."""
    stage = contract.make_stage(1024, 1024, "dynamic", "relu", out="int8")
    config = KernelConfig.of_linear(Problem.of(stage, 128, "cuda"))
    yield specialize(config, 1024).with_requirements(WIDE_LOAD)


register_impl(Impl("linear", "triton_blas", "triton", 30, supports, prepare))
