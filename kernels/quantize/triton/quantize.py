"""Quantize in Triton: one program per row, one pass for the largest magnitude and one for the rounding.

The magnitude is found on the bits: for float32 without its sign bit, integer order is numeric order, infinity is
0x7F800000 and every NaN lies above it. One integer maximum therefore gives both max |x| and whether the row is
finite, and needs no rule for NaN. Division is the correctly rounded one, so all numbers equal the reference's bits.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from rtaccel.core.registry import Impl, Prepared, register_impl
from rtaccel.core.stage import Problem, QParams, Stage
from rtaccel.kernels._gpu.triton_device import to_int8
from rtaccel.kernels._gpu.triton_launch import bind
from rtaccel.kernels._gpu.triton_spec import (
    FUSED,
    WIDE_LOAD,
    Specialisation,
    Tiling,
    power_of_two,
    require_matrix,
)
from rtaccel.kernels.quantize import contract

TINY = tl.constexpr(contract.TINY)
INFINITY_BITS = tl.constexpr(0x7F800000)


@triton.jit(do_not_specialize=["zero_point"])
def quantize_kernel(
    x_ptr, q_ptr, row_scale_ptr, inv_scale, zero_point,
    K: tl.constexpr, DYNAMIC: tl.constexpr, MARKS: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """MARKS: with a static scale, row_scale is 1 too, and NaN where the row is not finite."""
    row = tl.program_id(0).to(tl.int64)
    k = tl.arange(0, BLOCK_K)[None, :]
    x_row = x_ptr + row * K
    q_row = q_ptr + row * K

    bits = tl.zeros((1, BLOCK_K), tl.int32)
    for k0 in range(0, K, BLOCK_K):
        x = tl.load(x_row + k0 + k, mask=k0 + k < K, other=0.0)
        bits = tl.maximum(bits, x.to(tl.int32, bitcast=True) & 0x7FFFFFFF)
    peak_bits = tl.max(bits, 1, keep_dims=True)
    finite = peak_bits < INFINITY_BITS
    keep = finite
    if DYNAMIC:
        peak = peak_bits.to(tl.float32, bitcast=True)
        keep = finite & (peak >= TINY)
        safe = tl.where(keep, peak, 1.0)
        inverse = tl.div_rn(tl.full((1, 1), 127.0, tl.float32), safe)
        scale = tl.div_rn(safe, tl.full((1, 1), 127.0, tl.float32))
        scale = tl.where(keep, scale, tl.where(finite, 1.0, float("nan")))
        tl.store(row_scale_ptr + row + tl.arange(0, 1)[None, :], scale)
    else:
        inverse = inv_scale
        if MARKS:
            mark = tl.where(finite, 1.0, float("nan"))
            tl.store(row_scale_ptr + row + tl.arange(0, 1)[None, :], mark)

    for k0 in range(0, K, BLOCK_K):
        x = tl.load(x_row + k0 + k, mask=k0 + k < K, other=0.0)
        q = to_int8(x * inverse, zero_point)
        if DYNAMIC:
            q = tl.maximum(q, -127)
        tl.store(q_row + k0 + k, tl.where(keep, q, 0), mask=k0 + k < K)


def specialize(k: int, dynamic: bool, marks: bool = False) -> Specialisation:
    """The form for a width and a kind of scale: a whole row in one tile up to 4096 columns. marks: beside a static scale."""
    block_k = power_of_two(k, 32, 4096)
    tiling = Tiling(1, 1, block_k, num_warps=power_of_two(block_k // 128, 1, 8))
    kind = "dynamic" if dynamic else "marked" if marks else "static"
    return Specialisation(
        name=f"quantize_{kind}_K{k}",
        kernel=quantize_kernel,
        signature={
            "x_ptr": "*fp32", "q_ptr": "*i8", "row_scale_ptr": "*fp32", "inv_scale": "fp32", "zero_point": "i32",
        },
        constants={"K": k, "DYNAMIC": dynamic, "MARKS": marks, "BLOCK_K": block_k},
        tiling=tiling,
    )  # fmt: skip


def quantizer(k: int, inv_scale: float, zero_point: int, marks: bool, dynamic: bool = False) -> Prepared:
    """x float32 [M, k] -> int8 [M, k], and with dynamic rows, or marks, also row_scale float32 [M, 1]."""
    launch, beside = bind(specialize(k, dynamic, marks)), dynamic or marks

    def call(x: Tensor) -> tuple[Tensor, ...]:
        require_matrix("quantize", x, k, torch.float32)
        q = torch.empty(x.shape, dtype=torch.int8, device=x.device)
        row_scale = torch.empty((x.shape[0] if beside else 0, 1), device=x.device)
        if x.shape[0]:
            launch((x.shape[0],), x_ptr=x, q_ptr=q, row_scale_ptr=row_scale, inv_scale=inv_scale, zero_point=zero_point)
        return (q, row_scale) if beside else (q,)

    return call


def prepare(stage: Stage, problem: Problem) -> Prepared:
    """x float32 [M, K] -> int8 [M, K], and with dynamic rows also row_scale float32 [M, 1]."""
    low = contract.lower(stage)
    return quantizer(problem.in_widths[0], low["inv_scale"], low["zero_point"], False, bool(low["dynamic"]))


def specializations() -> Iterator[Specialisation]:
    """The forms that are compiled and held to a budget without a GPU."""
    for quant, forbids in ((QParams(1.0, 0), (FUSED,)), (None, ())):  # the exact division is made of fused steps
        problem = Problem.of(contract.make_stage(640, quant), 1, "cuda")
        spec = specialize(problem.in_widths[0], len(problem.out_widths) == 2)
        yield spec.with_requirements(WIDE_LOAD, forbids=forbids)


register_impl(Impl("quantize", "triton_rows", "triton", 10, lambda problem: None, prepare))
