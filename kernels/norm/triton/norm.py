"""Norm in Triton: a row in one tile; norm, activation and quantization in registers.

Both sums along a row have the order of the CPU (kernels/_simd/row.h), so results have its bits, and int8 behind them too: element
i belongs to partial sum i mod 64, and these are folded in halves. A tile cannot be summed in an order, so each sum reads the row
for itself, 64 elements at a time: from L1, but for the first.
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
from rtaccel.kernels._general.triton_tile import require_values
from rtaccel.kernels._gpu.triton_activations import activate
from rtaccel.kernels._gpu.triton_device import multiply_rn, to_int8
from rtaccel.kernels._gpu.triton_launch import bind
from rtaccel.kernels._gpu.triton_spec import Specialisation, Tiling, leave_out, power_of_two
from rtaccel.kernels.norm import contract
from rtaccel.kernels.quantize.triton.quantize import INFINITY_BITS, TINY

MAX_C = 16384
"""Columns of a row, 32 in each of 512 threads."""


PARTIAL_SUMS = tl.constexpr(64)
AT_ONCE = 16
"""Loads of a sum that are in flight together."""


@triton.jit
def folded(part):
    """The sum of 64, [2, 2, 2, 2, 2, 2], in halves: along an axis of two a sum is one addition."""
    return tl.sum(tl.sum(tl.sum(tl.sum(tl.sum(tl.sum(part, 0), 0), 0), 0), 0), 0)


@triton.jit
def row_sum(
    x_ptr, other_ptr, mean, C: tl.constexpr, SQUARES: tl.constexpr, ASM: tl.constexpr, AT_ONCE: tl.constexpr
):  # fmt: skip
    """Of a row of x, and of other where there is one: of its elements, or of the squares of what they are from the mean."""
    lane = tl.reshape(tl.arange(0, PARTIAL_SUMS), (2, 2, 2, 2, 2, 2))
    part = tl.zeros((2, 2, 2, 2, 2, 2), tl.float32)
    for c0 in range(0, C, PARTIAL_SUMS * AT_ONCE):
        for v in tl.static_range(AT_ONCE):
            c = c0 + v * PARTIAL_SUMS + lane
            t = tl.load(x_ptr + c, mask=c < C, other=0.0)
            if other_ptr is not None:
                t = t + tl.load(other_ptr + c, mask=c < C, other=0.0)
            if SQUARES:
                d = tl.where(c < C, t - mean, 0.0)
                t = multiply_rn(d, d, ASM)
            part += t
    return folded(part)


@triton.jit(do_not_specialize=["zero_point"])
def norm_kernel(
    x_ptr, other_ptr, weight_ptr, bias_ptr, y_ptr, q_ptr, row_scale_ptr, sum_ptr, eps, parameter, inv_scale, zero_point,
    C: tl.constexpr, RMS: tl.constexpr, ACTIVATION: tl.constexpr, ASM: tl.constexpr, AT_ONCE: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    c = tl.arange(0, BLOCK_C)[None, :]
    inside = c < C
    t = tl.load(x_ptr + row * C + c, mask=inside, other=0.0)
    if other_ptr is not None:
        t = t + tl.load(other_ptr + row * C + c, mask=inside, other=0.0)
    if sum_ptr is not None:
        tl.store(sum_ptr + row * C + c, t, mask=inside)
    count = tl.full((), C, tl.float32)
    x_row, other_row = x_ptr + row * C, other_ptr
    if other_ptr is not None:
        other_row = other_ptr + row * C
    mean = 0.0
    if not RMS:
        mean = tl.div_rn(row_sum(x_row, other_row, None, C, False, ASM, AT_ONCE), count)
    squares = row_sum(x_row, other_row, mean, C, True, ASM, AT_ONCE)
    scale = tl.div_rn(tl.full((), 1.0, tl.float32), tl.sqrt_rn(tl.div_rn(squares, count) + eps))
    z = multiply_rn((t - mean) * scale, tl.load(weight_ptr + c, mask=inside, other=0.0), ASM)
    z += tl.load(bias_ptr + c, mask=inside, other=0.0)
    y = activate(z, parameter, ACTIVATION)
    if y_ptr is not None:
        tl.store(y_ptr + row * C + c, y, mask=inside)
    if q_ptr is not None:  # as the operator `quantize`
        bits = tl.where(inside, y, 0.0).to(tl.int32, bitcast=True) & 0x7FFFFFFF
        peak_bits = tl.max(bits, 1, keep_dims=True)
        finite = peak_bits < INFINITY_BITS
        if row_scale_ptr is not None:
            peak = peak_bits.to(tl.float32, bitcast=True)
            keep = finite & (peak >= TINY)
            safe = tl.where(keep, peak, 1.0)
            most = tl.full((1, 1), 127.0, tl.float32)
            row_scale = tl.where(keep, tl.div_rn(safe, most), tl.where(finite, 1.0, float("nan")))
            tl.store(row_scale_ptr + row + tl.arange(0, 1)[None, :], row_scale)
            q = tl.maximum(to_int8(tl.where(keep, y, 0.0) * tl.div_rn(most, safe), 0), -127)
        else:
            keep = finite
            q = to_int8(tl.where(keep, y, 0.0) * inv_scale, zero_point)
        tl.store(q_ptr + row * C + c, tl.where(keep, q, 0), mask=inside)


def specialize(stage: Stage, problem: Problem) -> Specialisation:
    c, names, low = problem.in_widths[0], contract.roles(stage), contract.lower(stage)
    block_c = power_of_two(c, 32, MAX_C)
    signature, absent = leave_out(
        {
            "x_ptr": "*fp32", "other_ptr": "*fp32", "weight_ptr": "*fp32", "bias_ptr": "*fp32", "y_ptr": "*fp32",
            "q_ptr": "*i8", "row_scale_ptr": "*fp32", "sum_ptr": "*fp32", "eps": "fp32", "parameter": "fp32",
            "inv_scale": "fp32", "zero_point": "i32",
        },
        other_ptr=len(stage.inputs) > 1, **{f"{role}_ptr": role in names for role in contract.ROLES},
    )  # fmt: skip
    kind = f"{low['kind']}{'_sum' * (len(stage.inputs) > 1)}_{'_'.join(names)}_{low['activation']}"
    return Specialisation(
        name=f"norm_C{c}_{kind}",
        kernel=norm_kernel,
        signature=signature,
        constants={
            "C": c,
            "RMS": low["kind"] == "rms",
            "ACTIVATION": low["activation"],
            "ASM": not settings.triton_interpret(),
            "AT_ONCE": min(-(-c // 64), AT_ONCE),
            "BLOCK_C": block_c,
            **absent,
        },
        tiling=Tiling(1, block_c, 1, num_warps=power_of_two(block_c // 256, 1, 16)),
    )


def supports(problem: Problem) -> str | None:
    c = problem.in_widths[0]
    return f"holds a row in registers, C <= {MAX_C}, not {c}" if c > MAX_C else None


def prepare(stage: Stage, problem: Problem) -> Prepared:
    """x and, where the stage has one, other, float32 [M, C] -> the outputs of the stage; any M."""
    stage = stage.matrices()
    spec, low = specialize(stage, problem), contract.lower(stage)
    launch, names, c = bind(spec), contract.roles(stage), problem.in_widths[0]
    fixed = {f"{name}_ptr": low[name].to(problem.device).contiguous() for name in ("weight", "bias")}
    scalars = {name: low[name] for name in ("eps", "inv_scale", "zero_point")}
    dtypes = [getattr(torch, v.dtype) for v in stage.outputs]

    def call(*inputs: Tensor) -> tuple[Tensor, ...]:
        given = require_values(stage, inputs)
        m = given[0].shape[0]
        made = tuple(
            torch.empty((m, 1 if name == "row_scale" else c), dtype=dtype, device=given[0].device)
            for name, dtype in zip(names, dtypes)
        )
        if m and c:
            pointers = {f"{name}_ptr": y for name, y in zip(names, made)}
            pointers |= {f"{name}_ptr": x for name, x in zip(("x", "other"), given)}
            launch((m,), parameter=low["activation_parameter"], **pointers, **fixed, **scalars)
        return made

    return call


def specializations() -> Iterator[Specialisation]:
    """The forms that are compiled and held to a budget without a GPU."""
    for kind, gives, residual in (("layer", "y,sum", True), ("rms", "q,row_scale", False)):
        stage = contract.make_stage(512, kind, gives, residual=residual)
        yield specialize(stage, Problem.of(stage, 1, "cuda"))


register_impl(Impl("norm", "triton_rows", "triton", 10, supports, prepare))
