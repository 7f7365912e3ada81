"""Softmax in Triton: rows in one tile, read once."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from rtaccel.core.registry import Impl, Prepared, register_impl
from rtaccel.core.stage import Problem, Stage
from rtaccel.kernels._general.triton_tile import require_values
from rtaccel.kernels._gpu.triton_device import to_int8
from rtaccel.kernels._gpu.triton_launch import bind
from rtaccel.kernels._gpu.triton_spec import Specialisation, Tiling, power_of_two
from rtaccel.kernels.softmax import contract

MAX_C = 16384
"""Columns of a row, 32 in each of 512 threads."""


@triton.jit(do_not_specialize=["rows", "zero_point"])
def softmax_kernel(
    x_ptr, y_ptr, inv_scale, zero_point, rows,
    C: tl.constexpr, INT8_OUT: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    m = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)[:, None]
    c = tl.arange(0, BLOCK_C)[None, :]
    inside = (m < rows) & (c < C)
    x = tl.load(x_ptr + m * C + c, mask=inside, other=-float("inf"))
    e = tl.where(c < C, tl.exp(x - tl.max(x, 1, keep_dims=True)), 0.0)
    total = tl.sum(e, 1, keep_dims=True)
    y = e * (1.0 / total)
    if INT8_OUT:  # a row that is not finite, whose sum is not, has no number in int8
        finite = (total == total) & (total < float("inf"))
        tl.store(
            y_ptr + m * C + c,
            tl.where(finite, to_int8(tl.where(finite, y, 0.0) * inv_scale, zero_point), 0),
            mask=inside,
        )
    else:
        tl.store(y_ptr + m * C + c, y, mask=inside)


def specialize(problem: Problem) -> Specialisation:
    c, int8 = problem.in_widths[0], problem.out_dtypes[0] == "int8"
    block_c = power_of_two(c, 1, MAX_C)
    block_m = power_of_two(problem.matrix_rows // 128, 1, max(1, min(32, 1024 // block_c)))
    tile = Tiling(block_m, block_c, 1, num_warps=power_of_two(block_m * block_c // 256, 1, 16))
    return Specialisation(
        name=f"softmax_C{c}_{problem.out_dtypes[0]}_{block_m}",
        kernel=softmax_kernel,
        signature={
            "x_ptr": "*fp32", "y_ptr": "*i8" if int8 else "*fp32", "inv_scale": "fp32", "zero_point": "i32", "rows": "i32",
        },
        constants={"C": c, "INT8_OUT": int8, "BLOCK_M": block_m, "BLOCK_C": block_c},
        tiling=tile,
    )  # fmt: skip


def supports(problem: Problem) -> str | None:
    c = problem.in_widths[0]
    return f"holds a row in registers, C <= {MAX_C}, not {c}" if c > MAX_C else None


def prepare(stage: Stage, problem: Problem) -> Prepared:
    """x float32 [M, C] -> y [M, C]; any M."""
    stage = stage.matrices()
    spec, low = specialize(problem), contract.lower(stage)
    launch, dtype, high = bind(spec), getattr(torch, stage.outputs[0].dtype), spec.tiling.block_m

    def call(x: Tensor) -> tuple[Tensor]:
        (x,) = require_values(stage, (x,))
        y = torch.empty(x.shape, dtype=dtype, device=x.device)
        if y.numel():
            launch((triton.cdiv(x.shape[0], high),), x_ptr=x, y_ptr=y, rows=x.shape[0], **low)
        return (y,)

    return call


def specializations() -> Iterator[Specialisation]:
    """The forms that are compiled and held to a budget without a GPU."""
    yield specialize(Problem.of(contract.make_stage(256), 1, "cuda"))


register_impl(Impl("softmax", "triton_rows", "triton", 10, supports, prepare))
