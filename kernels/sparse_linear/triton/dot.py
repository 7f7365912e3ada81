"""Block-sparse linear on the tensor cores: a row of blocks and some rows of x per program, any M.

A step multiplies block_k elements of the row of blocks, several blocks of c inputs side by side, by the parts of x that their
columns name: c neighboring inputs at a time. What is not stored is neither read nor multiplied. int8 x int8 with sums in int32,
exact; or float32 x rounded to bfloat16, by bfloat16 or int8 weights, with sums in float32.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl

from rtaccel.core.registry import Impl, Prepared, register_impl
from rtaccel.core.stage import Problem, Stage
from rtaccel.core.weight_format import WeightFormat
from rtaccel.kernels._gpu.triton_epilogue import Epilogue, epilogue
from rtaccel.kernels._gpu.triton_nan_propagation import nan_propagator
from rtaccel.kernels._gpu.triton_spec import ASYNC_COPY, BF16_MMA, INT8_MMA, Specialisation, Tiling, power_of_two
from rtaccel.kernels.linear.triton.mixed import as_operand
from rtaccel.kernels.sparse_linear.triton.pack import WHOLE, pack
from rtaccel.kernels.sparse_linear.triton.rows import (
    LARGEST,
    KernelConfig,
    launcher,
    operands_of,
    problem_of_size,
    unsupported,
)
from rtaccel.kernels.sparse_linear.triton.walk import row_units

STEP = 128
"""Weights of each output that a program reads at once."""

SIDE = 16
"""Least outputs and inputs of a block: a tile of the tensor cores, and a 16-byte piece of x."""


@triton.jit(do_not_specialize=["rows", "y_zero_point"])
def sparse_dot_kernel(
    x_ptr, weight_ptr, columns_ptr, starts_ptr,
    y_ptr, multiplier_ptr, offset_ptr, compensation_ptr, row_scale_ptr, parameter, y_inv_scale, y_zero_point, rows,
    N: tl.constexpr, ACTIVATION: tl.constexpr, INT8_OUT: tl.constexpr, ASM: tl.constexpr, K: tl.constexpr,
    DOT: tl.constexpr, B: tl.constexpr, C: tl.constexpr, UNIT: tl.constexpr, PIECE: tl.constexpr,
    STEPPED: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """B outputs share their columns; a block has C weights of each, UNIT are a unit of the stream, PIECE are 16 bytes.
    STEPPED: outputs follow each other in each step, else row after row."""
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(1) * B + tl.arange(0, B)
    k = tl.arange(0, BLOCK_K)
    in_m = m < rows
    first = tl.load(starts_ptr + tl.program_id(1))
    length = row_units(first, tl.load(starts_ptr + tl.program_id(1) + 1), K, C, UNIT) * UNIT
    w_tile, output = weight_ptr + first.to(tl.int64) * (B * UNIT) + k[None, :], tl.arange(0, B)[:, None]
    w_rows = w_tile + output * length
    column_row = columns_ptr + first.to(tl.int64) * (UNIT // C)
    x_row = x_ptr + m[:, None].to(tl.int64) * K
    zero = tl.zeros((BLOCK_M, BLOCK_K), tl.int32)

    acc = tl.zeros((BLOCK_M, B), tl.int32 if DOT == "int8" else tl.float32)
    for k0 in range(0, length, BLOCK_K):
        at = k0 + k
        apart = tl.multiple_of(tl.minimum(length - k0, BLOCK_K), PIECE)  # rows of what a step reads follow each other
        w_at = w_tile + k0 * B + output * apart if STEPPED else w_rows + k0
        w = tl.load(w_at, mask=(at < length)[None, :], other=0)  # [B, BLOCK_K]
        inside = at[None, :] + zero < length  # in the shape of x: a row that is broadcast afterwards costs a conversion
        column = tl.load(column_row + at[None, :] // C + zero, mask=inside, other=0)  # [BLOCK_M, BLOCK_K]
        x_at = column.to(tl.int32) * C + at[None, :] % C
        if K % C:  # the last block of a row reaches over the edge of x
            inside = inside & (x_at < K)
        x = tl.load(x_row + x_at, mask=inside & in_m[:, None], other=0)  # [BLOCK_M, BLOCK_K]
        w = tl.trans(as_operand(w, DOT, ASM))
        acc = tl.dot(as_operand(x, DOT, ASM), w, acc, out_dtype=acc.dtype)  # [BLOCK_M, B]

    epilogue(acc, m, in_m, n, None, Epilogue(
        y_ptr, multiplier_ptr, offset_ptr, compensation_ptr, row_scale_ptr, None, parameter, y_inv_scale, y_zero_point, N,
        ACTIVATION, INT8_OUT, ASM,
    ))  # fmt: skip


def step_of(config: KernelConfig) -> int:
    """Elements of a row that lie beside those of the other outputs; 0 for whole rows, which wide blocks begin at half a line."""
    return STEP if config.c < LARGEST else 0


def supports(problem: Problem) -> str | None:
    reason = unsupported(problem, ("window", "blocks"))
    if reason is not None:
        return reason
    if problem.weight_format is WeightFormat.FLOAT32:
        return "has no form for float32 weights, which torch multiplies with their zeros"
    return None


def specialize(config: KernelConfig, rows: int) -> Specialisation:
    """Steps of 128, eight blocks of 16 inputs: a row of 4096 with 90 % zeros is four of them. Not measured on a card."""
    tile = Tiling(power_of_two(rows, 16, 64), config.b, STEP, num_warps=4, num_stages=3)
    return Specialisation(
        name=f"sparse_dot_M{tile.block_m}_{config}",
        kernel=sparse_dot_kernel,
        signature=config.signature(config.where),
        constants={
            **config.constants, "DOT": "int8" if config.x == "int8" else "bf16", "B": config.b, "C": config.c,
            "UNIT": config.unit, "PIECE": config.piece,
            "STEPPED": bool(step_of(config)), "BLOCK_M": tile.block_m, "BLOCK_K": tile.block_k,
        },
        tiling=tile,
    )  # fmt: skip


def prepare(stage: Stage, problem: Problem) -> Prepared:
    """x [M, K] and, with dynamic rows, row_scale float32 [M, 1] -> y [M, N]; any M, best for those of the problem."""
    config = KernelConfig.of_blocks(stage, problem, SIDE, SIDE)
    there, scalars = operands_of(
        stage, config, problem.device, lambda weight: pack(weight, config, step_of(config) or WHOLE)
    )
    word, propagate_nan = (
        (torch.int8, None) if config.x == "int8" else (torch.float32, nan_propagator(config.k, config.n))
    )
    return launcher(config, specialize(config, problem.matrix_rows), there, scalars, word, propagate_nan)


def specializations() -> Iterator[Specialisation]:
    """The forms that are compiled and held to a budget without a GPU."""
    for kind, k, n, rows, (b, c), activation, out, requires in (
        ("static", 1024, 1024, 8, (16, 16), "relu", "int8", INT8_MMA),
        ("dynamic", 4096, 512, 16, (64, 64), "gelu", "float32", INT8_MMA),
        ("static", 4096, 512, 64, (32, 32), "none", "float32", INT8_MMA),
        ("bfloat16", 4096, 512, 16, (64, 64), "relu", "float32", BF16_MMA),
    ):
        problem = problem_of_size(k, n, kind, "window", rows, activation=activation, out=out)
        config = KernelConfig.of(problem, b, c)
        yield specialize(config, rows).with_requirements(requires, ASYNC_COPY)


register_impl(Impl("sparse_linear", "triton_dot", "triton", 10, supports, prepare))
