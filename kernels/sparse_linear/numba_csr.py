"""A sparse matrix times a vector in Numba CUDA: a block per row gathers x by the columns of the row's numbers.

    y[r] = sum of values[i] * x[columns[i]],  i in starts[r] .. starts[r + 1] - 1

starts int32 [rows + 1], columns int32 [numbers], values float32 [numbers], x float32 [width]. Thread t of a block sums numbers t,
t + 32, ... of the row in order, and the threads' sums are added pairwise: the same bits every time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rtaccel.core.errors import ShapeError
from rtaccel.kernels._gpu.numba_alias import NARROW_INDEX, THREADS, PtxSpec, cuda, stream, sum_into_first, view

FLOAT32 = np.float32


@cuda.jit
def csr_kernel(starts: Any, columns: Any, values: Any, x: Any, y: Any) -> None:
    row, thread = cuda.blockIdx.x, cuda.threadIdx.x
    parts = cuda.shared.array(THREADS, dtype=FLOAT32)
    total = FLOAT32(0)
    for i in range(starts[row] + thread, starts[row + 1], THREADS):
        total += values[i] * x[columns[i]]
    parts[thread] = total
    sum_into_first(parts, thread)
    if thread == 0:
        y[row] = parts[0]


def csr_matvec(starts: Tensor, columns: Tensor, values: Tensor, x: Tensor) -> Tensor:
    """y float32 [rows]. Raises ShapeError where the parts do not fit; columns are the caller's to keep within x."""
    rows = starts.shape[0] - 1
    if rows < 0 or columns.shape != values.shape or x.dim() != 1:
        raise ShapeError(
            "csr", f"starts {tuple(starts.shape)}, columns {tuple(columns.shape)}, values {tuple(values.shape)}",
            "[rows + 1], [numbers], [numbers]", "Take them from torch's crow_indices(), col_indices() and values().",
        )  # fmt: skip
    y = torch.empty(rows, device=x.device)
    if rows:
        csr_kernel[rows, THREADS, stream()](*(view(t) for t in (starts, columns, values, x, y)))
    return y


def ptx_forms() -> Iterator[PtxSpec]:
    """Products may fuse with their sums: the tolerance allows either."""
    signature = "void(int32[::1], int32[::1], float32[::1], float32[::1], float32[::1])"
    yield PtxSpec("csr", csr_kernel, signature, (r"fma\.rn\.f32", r"bar\.sync"), (NARROW_INDEX,))
