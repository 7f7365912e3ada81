"""Sparse linear in Numba CUDA, on compressed rows: a block per output and row of x, or work cut evenly where outputs are uneven.

Row-split: the threads of a block share the numbers of an output, and one of them ends it. Where the longest row is many
times the average, most blocks would wait for a few: then the merge path cuts the work (numba_merge.py), and a second
kernel ends the outputs. Both are exact in int8, and every product and sum of the epilogue rounds once: the contract's bits.

A static zero point is taken from x where it is read: what is not stored is zero times x - zero_point.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rtaccel.core.registry import Impl, Prepared, register_impl
from rtaccel.core.stage import Problem, Stage
from rtaccel.core.weight_format import WeightFormat
from rtaccel.kernels._gpu.numba_activations import activate, missing, number
from rtaccel.kernels._gpu.numba_alias import THREADS, cuda, grid_rows, multiply_rn, stream, sum_into_first, view
from rtaccel.kernels._gpu.triton_spec import require_matrix, require_row_scale
from rtaccel.kernels.linear import contract as linear
from rtaccel.kernels.sparse_linear import contract
from rtaccel.kernels.sparse_linear.numba_merge import blocks_of, carried, merge_sums

UNEVEN = 8
"""Times the average that the longest row must have for the merge path: its second kernel costs a launch. Not measured on a
card."""

INT32, FLOAT32 = np.int32, np.float32
MAGIC = FLOAT32(12582912.0)
"""1.5 * 2^23: adding it to |v| <= 2^22 and taking it away rounds to even."""

_multiply = multiply_rn()


@cuda.jit(device=True)
def finite(x: Any, m: Any) -> Any:
    """Whether a row of x is finite: what is not becomes NaN times zero."""
    total = FLOAT32(0)
    for k in range(x.shape[1]):
        total += x[m, k] * FLOAT32(0)
    return total == FLOAT32(0)


@cuda.jit(device=True)
def ended(total: Any, n: Any, m: Any, multiplier: Any, offset: Any, row_scale: Any, kind: Any, parameter: Any) -> Any:
    """act(float32(total) * multiplier + offset), with the row's scale where there is one."""
    factor = multiplier[n]
    if row_scale.shape[0] > 0:
        factor = _multiply(factor, row_scale[m, 0])
    return activate(kind, parameter, _multiply(FLOAT32(total), factor) + offset[n])


@cuda.jit(device=True)
def as_int8(t: Any, zero_point: Any) -> Any:
    bounded = min(max(t, FLOAT32(-512.0)), FLOAT32(512.0))
    rounded = FLOAT32(FLOAT32(bounded + MAGIC) - MAGIC)
    return min(max(INT32(rounded) + INT32(zero_point), INT32(-128)), INT32(127))


@cuda.jit
def csr_int8_kernel(
    starts: Any, columns: Any, values: Any, x: Any, zero_point: Any, multiplier: Any, offset: Any, row_scale: Any,
    kind: Any, parameter: Any, int8_out: Any, y_zero_point: Any, y: Any,
) -> None:  # fmt: skip
    n, thread = cuda.blockIdx.x, cuda.threadIdx.x
    parts = cuda.shared.array(THREADS, dtype=INT32)
    m = cuda.blockIdx.y
    while m < x.shape[0]:  # a range would divide
        acc = INT32(0)
        for i in range(starts[n] + thread, starts[n + 1], THREADS):
            acc = INT32(acc + (INT32(x[m, columns[i]]) - INT32(zero_point)) * INT32(values[i]))
        parts[thread] = acc
        sum_into_first(parts, thread)
        if thread == 0:
            t = ended(parts[0], n, m, multiplier, offset, row_scale, kind, parameter)
            if int8_out:  # two statements: one value of both kinds would be a double
                y[m, n] = as_int8(t, y_zero_point)
            else:
                y[m, n] = t
        cuda.syncthreads()  # the sum was read, before the next row writes
        m += cuda.gridDim.y


@cuda.jit
def csr_float_kernel(
    starts: Any, columns: Any, values: Any, x: Any, offset: Any, kind: Any, parameter: Any, y: Any
) -> None:
    n, thread = cuda.blockIdx.x, cuda.threadIdx.x
    parts = cuda.shared.array(THREADS, dtype=FLOAT32)
    m = cuda.blockIdx.y
    while m < x.shape[0]:  # a range would divide
        total = FLOAT32(0)
        for i in range(starts[n] + thread, starts[n + 1], THREADS):
            total += values[i] * x[m, columns[i]]
        for k in range(thread, x.shape[1], THREADS):  # a number that is not finite makes the row NaN, whatever it meets
            total += x[m, k] * FLOAT32(0)
        parts[thread] = total
        sum_into_first(parts, thread)
        if thread == 0:
            y[m, n] = activate(kind, parameter, parts[0] + offset[n])
        cuda.syncthreads()  # the sum was read, before the next row writes
        m += cuda.gridDim.y


@cuda.jit
def end_int8_kernel(
    starts: Any, sums: Any, carries: Any, multiplier: Any, offset: Any, row_scale: Any, kind: Any, parameter: Any, int8_out: Any,
    y_zero_point: Any, y: Any,
) -> None:  # fmt: skip
    n = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
    if n >= y.shape[1]:
        return
    m = cuda.blockIdx.y
    while m < y.shape[0]:  # a range would divide
        total = carried(starts, carries, m, n, sums[m, n])
        t = ended(total, n, m, multiplier, offset, row_scale, kind, parameter)
        if int8_out:
            y[m, n] = as_int8(t, y_zero_point)
        else:
            y[m, n] = t
        m += cuda.gridDim.y


@cuda.jit
def end_float_kernel(
    starts: Any, sums: Any, carries: Any, x: Any, offset: Any, kind: Any, parameter: Any, y: Any
) -> None:
    n = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
    if n >= y.shape[1]:
        return
    m = cuda.blockIdx.y
    while m < y.shape[0]:  # a range would divide
        t = activate(kind, parameter, carried(starts, carries, m, n, sums[m, n]) + offset[n])
        if not finite(x, m):
            t = FLOAT32(np.nan)
        y[m, n] = t
        m += cuda.gridDim.y


def supports(problem: Problem) -> str | None:
    alike = {WeightFormat.INT8: "int8", WeightFormat.FLOAT32: "float32"}
    if problem.weight_format not in alike or alike[problem.weight_format] != problem.in_dtypes[0]:
        return f"multiplies int8 by int8 and float32 by float32, not {problem.in_dtypes[0]} by {problem.weight_format}"
    if problem.weight_format is WeightFormat.FLOAT32 and problem.out_dtypes[0] != "float32":
        return "writes float32 where it multiplies float32"
    reason = missing(str(problem.attrs.get("activation", "none")))
    if reason is not None:
        return reason
    if problem.in_widths[0] > linear.MAX_K:
        return f"sums in int32, which holds K <= {linear.MAX_K}, not K = {problem.in_widths[0]}"
    return None


def uneven(starts: Tensor) -> bool:
    """Whether the longest row has many times the average."""
    counts = starts.diff()
    return bool(counts.numel()) and int(counts.max()) * counts.numel() > UNEVEN * max(int(starts[-1]), counts.numel())


def build(low: Mapping[str, Any], stage: Stage, device: str, merged: bool) -> Prepared:
    """The call, row-split or along the merge path. low: of the contract."""
    int8 = low["weight"].dtype == torch.int8
    offset = low["offset"] if int8 else low["bias"]
    names = ("row_starts", "columns", "weight")
    starts, columns, values, offset = (t.contiguous().to(device) for t in (*(low[n] for n in names), offset))
    n, k = starts.numel() - 1, stage.inputs[0].width
    act = (number(low["activation"]), FLOAT32(low["activation_parameter"]))
    int8_out = stage.outputs[0].dtype == "int8"
    no_scale = torch.zeros((0, 1), device=device)
    multiplier = low["multiplier"].contiguous().to(device) if int8 else no_scale
    zero_point, y_zero_point = low.get("x_zero_point", 0), low.get("y_zero_point", 0)
    dtype = torch.int8 if int8 else torch.float32

    def call(x: Tensor, *row_scale: Tensor) -> tuple[Tensor]:
        require_matrix("sparse_linear", x, k, dtype)
        require_row_scale("sparse_linear", x, row_scale, bool(low.get("dynamic", 0)))
        y = torch.empty((x.shape[0], n), dtype=torch.int8 if int8_out else torch.float32, device=x.device)
        if not y.numel():
            return (y,)
        matrix = [view(t) for t in (starts, columns, values, x)]
        ending = [view(t) for t in (multiplier, offset, row_scale[0] if row_scale else no_scale)]
        if merged:
            parts = merge_sums(starts, columns, values, x, zero_point if int8 else None)
            grid = (blocks_of(n), grid_rows(x.shape[0]))
            found = [view(starts), *(view(t) for t in parts)]
            if int8:
                end_int8_kernel[grid, THREADS, stream()](*found, *ending, *act, int8_out, y_zero_point, view(y))
            else:
                end_float_kernel[grid, THREADS, stream()](*found, matrix[3], ending[1], *act, view(y))
        elif int8:
            csr_int8_kernel[(n, grid_rows(x.shape[0])), THREADS, stream()](
                *matrix, zero_point, *ending, *act, int8_out, y_zero_point, view(y)
            )
        else:
            csr_float_kernel[(n, grid_rows(x.shape[0])), THREADS, stream()](*matrix, ending[1], *act, view(y))
        return (y,)

    return call


def prepare(stage: Stage, problem: Problem) -> Prepared:
    """x [M, K] and, with dynamic rows, row_scale float32 [M, 1] -> y [M, N]; any M."""
    low = contract.lower(stage)
    return build(low, stage, problem.device, uneven(low["row_starts"]))


register_impl(Impl("sparse_linear", "numba_cuda_csr", "numba_cuda", 0, supports, prepare))
