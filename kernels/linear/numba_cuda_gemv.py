"""W8A8 linear in Numba CUDA: a block per output and row, whose threads share the sum. The plainest form of this kernel.

Integers are exact, and every product and sum of the epilogue rounds once, so the results are the contract's to the bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rtaccel.core.registry import Impl, Prepared, register_impl
from rtaccel.core.stage import Problem, Stage
from rtaccel.core.weight_format import WeightFormat
from rtaccel.kernels._gpu.numba_activations import activate, missing, number
from rtaccel.kernels._gpu.numba_alias import (
    FUSED,
    NARROW_INDEX,
    THREADS,
    PtxSpec,
    cuda,
    grid_rows,
    multiply_rn,
    stream,
    sum_into_first,
    view,
)
from rtaccel.kernels.linear import contract

_multiply = multiply_rn()
INT32, FLOAT32 = np.int32, np.float32


@cuda.jit
def gemv_kernel(
    x: Any,
    weight: Any,
    multiplier: Any,
    offset: Any,
    row_scale: Any,
    zero_point: Any,
    kind: Any,
    parameter: Any,
    y: Any,
) -> None:
    n, thread = cuda.blockIdx.x, cuda.threadIdx.x
    parts = cuda.shared.array(THREADS, dtype=INT32)
    m = cuda.blockIdx.y
    while m < x.shape[0]:  # a range would divide
        acc = INT32(0)
        for k in range(thread, x.shape[1], THREADS):
            acc += (INT32(x[m, k]) - INT32(zero_point)) * INT32(weight[n, k])
        parts[thread] = acc
        sum_into_first(parts, thread)
        if thread == 0:
            factor = multiplier[n]
            if row_scale.shape[0] > 0:
                factor = _multiply(factor, row_scale[m, 0])
            t = _multiply(FLOAT32(parts[0]), factor) + offset[n]
            y[m, n] = activate(kind, parameter, t)
        cuda.syncthreads()  # the sum was read, before the next row writes
        m += cuda.gridDim.y


def supports(problem: Problem) -> str | None:
    if problem.weight_format is not WeightFormat.INT8 or problem.in_dtypes[0] != "int8":
        return f"multiplies int8 by int8, not {problem.in_dtypes[0]} by {problem.weight_format}"
    if problem.out_dtypes[0] != "float32":
        return "writes float32"
    reason = missing(str(problem.attrs.get("activation", "none")))
    if reason is not None:
        return reason
    if problem.in_widths[0] > contract.MAX_K:
        return f"sums in int32, which holds K <= {contract.MAX_K}, not K = {problem.in_widths[0]}"
    return None


def prepare(stage: Stage, problem: Problem) -> Prepared:
    """x int8 [M, K] and, with dynamic rows, row_scale float32 [M, 1] -> y float32 [M, N]; any M."""
    low = contract.lower(stage)
    weight, multiplier, offset = (low[n].contiguous().to(problem.device) for n in ("weight", "multiplier", "offset"))
    kind, parameter, zero_point = number(low["activation"]), FLOAT32(low["activation_parameter"]), low["x_zero_point"]
    no_scale = torch.zeros((0, 1), device=problem.device)

    def call(x: Tensor, row_scale: Tensor = no_scale) -> tuple[Tensor]:
        y = torch.empty((x.shape[0], weight.shape[0]), device=x.device)
        if y.numel():
            arrays = [view(t) for t in (x, weight, multiplier, offset, row_scale)]
            grid = (weight.shape[0], grid_rows(x.shape[0]))
            gemv_kernel[grid, THREADS, stream()](*arrays, zero_point, kind, parameter, view(y))
        return (y,)

    return call


def ptx_forms() -> Iterator[PtxSpec]:
    """Its products and sums round one by one, as the contract's do."""
    arrays = "int8[:,::1], int8[:,::1], float32[::1], float32[::1], float32[:,::1]"
    signature = f"void({arrays}, int64, int64, float32, float32[:,::1])"
    wanted = (r"mul\.rn\.f32", r"bar\.sync", r"ld\.global\.s8")
    yield PtxSpec("linear_gemv", gemv_kernel, signature, wanted, (FUSED, NARROW_INDEX))


register_impl(Impl("linear", "numba_cuda_gemv", "numba_cuda", 0, supports, prepare))
