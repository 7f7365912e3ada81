"""How the sums of a kernel become its outputs: one value says what that takes, one helper does it.

    t = float32(acc + compensation[n]) * (multiplier[n] * row_scale[m]) + offset[n]
    y = act(t) + residual[m, n]             RESIDUAL_INSIDE: act(t + residual[m, n])
    y = clamp(rint(y * y_inv_scale) + y_zero_point, -128, 127)          INT8_OUT

Each product and each sum rounds once. A pointer that is None stands for a part that is not there: nothing is read for it.

A kernel is launched with loose arguments, which stored kernels find by name. It makes an `Epilogue` of them where it calls the
helper: an assignment would turn the constants among them into numbers of the card. `epilogue_types` has their types.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from rtaccel.kernels._gpu.triton_activations import activate
from rtaccel.kernels._gpu.triton_device import multiply_rn, to_int8


class Epilogue(NamedTuple):
    """What ends the sums of a layer of N outputs.

    y_ptr [M, N]; multiplier_ptr, offset_ptr float32 [N]; compensation_ptr int32 [N] or None; row_scale_ptr float32 [M] or None;
    residual_ptr float32 [M, N] or None. parameter: of the activation that ACTIVATION names. ASM: False in the interpreter.
    """

    y_ptr: Any
    multiplier_ptr: Any
    offset_ptr: Any
    compensation_ptr: Any
    row_scale_ptr: Any
    residual_ptr: Any
    parameter: Any
    y_inv_scale: Any
    y_zero_point: Any
    N: Any
    ACTIVATION: Any
    INT8_OUT: Any
    ASM: Any
    RESIDUAL_INSIDE: Any = False


def epilogue_types(int8_out: bool, *optional: str) -> dict[str, str]:
    """Types of the arguments that an Epilogue is made of, in its order, for the signature of a kernel.

    optional: those of compensation_ptr, row_scale_ptr and residual_ptr that the kernel has at all.
    """
    found = {
        "y_ptr": "*i8" if int8_out else "*fp32", "multiplier_ptr": "*fp32", "offset_ptr": "*fp32", "compensation_ptr": "*i32",
        "row_scale_ptr": "*fp32", "residual_ptr": "*fp32", "parameter": "fp32", "y_inv_scale": "fp32", "y_zero_point": "i32",
    }  # fmt: skip
    absent = {"compensation_ptr", "row_scale_ptr", "residual_ptr"}.difference(optional)
    return {name: kind for name, kind in found.items() if name not in absent}


@triton.jit
def store_outputs(acc, multiplier, offset, row_scale, row_at, n, inside, end):
    """Stores the outputs of compensated sums acc where they are inside: outputs n of rows that begin at elements row_at of y.
    Everything broadcasts against acc; row_scale may be None."""
    if row_scale is not None:
        multiplier = multiply_rn(multiplier, row_scale, end.ASM)
    t = multiply_rn(acc.to(tl.float32), multiplier, end.ASM) + offset
    if end.residual_ptr is not None and end.RESIDUAL_INSIDE:
        t += tl.load(end.residual_ptr + row_at + n, mask=inside, other=0.0)  # as acc
    y = activate(t, end.parameter, end.ACTIVATION)
    if end.residual_ptr is not None and not end.RESIDUAL_INSIDE:
        y += tl.load(end.residual_ptr + row_at + n, mask=inside, other=0.0)  # as acc
    if end.INT8_OUT:
        y = to_int8(y * end.y_inv_scale, end.y_zero_point)
    tl.store(end.y_ptr + row_at + n, y, mask=inside)


@triton.jit
def epilogue(acc, m, in_m, n, row_scale, end):
    """Stores outputs n of rows m from their sums, acc [m, n].

    row_scale: [m], of rows whose scales the kernel has; None reads those at row_scale_ptr, if it has one.
    """
    if end.row_scale_ptr is not None:
        row_scale = tl.load(end.row_scale_ptr + m, mask=in_m, other=0.0)  # [m]
    in_n = n < end.N
    if end.compensation_ptr is not None:
        acc += tl.load(end.compensation_ptr + n, mask=in_n, other=0)[None, :]  # [1, n]
    multiplier = tl.load(end.multiplier_ptr + n, mask=in_n, other=0.0)[None, :]  # [1, n]
    offset = tl.load(end.offset_ptr + n, mask=in_n, other=0.0)[None, :]  # [1, n]
    scale = None
    if row_scale is not None:
        scale = row_scale[:, None]
    row_at = m[:, None].to(tl.int64) * end.N
    store_outputs(acc, multiplier, offset, scale, row_at, n[None, :], in_m[:, None] & in_n[None, :], end)


@triton.jit
def sums_of_rows(accs, ROWS: tl.constexpr, KEEP: tl.constexpr = False):
    """For each row the sums of its tile [n, k] over k: a tuple of [n], of [1, n] with KEEP."""
    totals = ()
    for r in tl.static_range(ROWS):
        total = tl.sum(accs[r], 1)
        if KEEP:
            total = total[None, :]
        totals = totals + (total,)  # noqa: RUF005
    return totals


@triton.jit
def epilogue_of_rows(totals, m, rows, n, row_scales, end, ROWS: tl.constexpr):
    """Stores outputs n of rows m .. m + ROWS - 1, m int64, from their sums: a tuple in the shape of n, [n] or [1, n].

    row_scales: a tuple of numbers, where the kernel has the scales; None reads those at row_scale_ptr, if it has one.
    """
    in_n = n < end.N
    if end.compensation_ptr is not None:
        compensation = tl.load(end.compensation_ptr + n, mask=in_n, other=0)  # as n
    multiplier = tl.load(end.multiplier_ptr + n, mask=in_n, other=0.0)  # as n
    offset = tl.load(end.offset_ptr + n, mask=in_n, other=0.0)  # as n
    for r in tl.static_range(ROWS):
        row, total = m + r, totals[r]
        in_m = row + tl.zeros_like(n) < rows  # a tile, because the interpreter of triton 3.9 widens a scalar condition
        if end.compensation_ptr is not None:
            total += compensation
        scale = None
        if row_scales is not None:
            scale = row_scales[r] + tl.zeros_like(multiplier)
        elif end.row_scale_ptr is not None:
            scale = tl.load(end.row_scale_ptr + row + tl.zeros_like(n), mask=in_m, other=0.0)  # as n, one number
        store_outputs(total, multiplier, offset, scale, row * end.N, n, in_n & in_m, end)
