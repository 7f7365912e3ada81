"""A sparse matrix times rows of x in Numba CUDA, however uneven its rows are: work is cut by the merge path, not by rows.

    y[m, r] = sum of values[i] * x[m, columns[i]],  i in starts[r] .. starts[r + 1] - 1

The ends of the rows and the numbers, merged, are a list of rows + numbers items; every thread takes the same count of them,
found by a binary search along its diagonal (Merrill and Garland, Merge-based parallel sparse matrix-vector multiplication, SC
2016). A thread that consumes the end of a row writes what it has of it; what is left at its own end is carried, and a row's
carries are added in their order by whoever reads its sum: the same bits every time, no atomics, and one row with everything in
it is as fast as many.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from rtaccel.core.errors import ShapeError
from rtaccel.kernels._gpu.numba_alias import THREADS, cuda, grid_rows, stream, view

INT32, FLOAT32 = np.int32, np.float32

ITEMS = 16
"""Of a thread. Not measured on a card."""


@cuda.jit(device=True)
def row_of(starts: Any, rows: Any, diagonal: Any) -> Any:
    """How many ends of rows are among the first `diagonal` items."""
    low, high = max(0, diagonal - starts[rows]), min(diagonal, rows)
    while low < high:
        middle = (low + high) // 2
        if starts[middle + 1] <= diagonal - middle - 1:
            low = middle + 1
        else:
            high = middle
    return low


@cuda.jit(device=True)
def carried(starts: Any, carries: Any, m: Any, row: Any, total: Any) -> Any:
    """What is carried to a row, added to its sum: of the threads that end within it."""
    for thread in range((starts[row] + row) // ITEMS, (starts[row + 1] + row) // ITEMS):
        total += carries[m, thread]
    return total


@cuda.jit
def merge_float_kernel(starts: Any, columns: Any, values: Any, x: Any, sums: Any, carries: Any) -> None:
    thread, rows = cuda.blockIdx.x * THREADS + cuda.threadIdx.x, starts.shape[0] - 1
    if thread >= carries.shape[1]:
        return
    last = min((thread + 1) * ITEMS, rows + starts[rows])
    first = row_of(starts, rows, thread * ITEMS)
    m = cuda.blockIdx.y
    while m < x.shape[0]:  # a range would divide
        row = first
        i = thread * ITEMS - row
        total = FLOAT32(0)
        for _ in range(thread * ITEMS, last):
            if i < starts[row + 1]:
                total += values[i] * x[m, columns[i]]
                i += 1
            else:
                sums[m, row] = total
                total = FLOAT32(0)
                row += 1
        carries[m, thread] = total
        m += cuda.gridDim.y


@cuda.jit
def merge_int8_kernel(starts: Any, columns: Any, values: Any, x: Any, zero_point: Any, sums: Any, carries: Any) -> None:
    """int8 values and x, sums in int32: exact, so that the order does not matter."""
    thread, rows = cuda.blockIdx.x * THREADS + cuda.threadIdx.x, starts.shape[0] - 1
    if thread >= carries.shape[1]:
        return
    last = min((thread + 1) * ITEMS, rows + starts[rows])
    first = row_of(starts, rows, thread * ITEMS)
    m = cuda.blockIdx.y
    while m < x.shape[0]:  # a range would divide
        row = first
        i = thread * ITEMS - row
        total = INT32(0)
        for _ in range(thread * ITEMS, last):
            if i < starts[row + 1]:
                total = INT32(total + (INT32(x[m, columns[i]]) - INT32(zero_point)) * INT32(values[i]))
                i += 1
            else:
                sums[m, row] = total
                total = INT32(0)
                row += 1
        carries[m, thread] = total
        m += cuda.gridDim.y


@cuda.jit
def add_carries_kernel(starts: Any, sums: Any, carries: Any) -> None:
    row = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
    if row >= starts.shape[0] - 1:
        return
    m = cuda.blockIdx.y
    while m < sums.shape[0]:  # a range would divide
        sums[m, row] = carried(starts, carries, m, row, sums[m, row])
        m += cuda.gridDim.y


def threads_of(rows: int, params: int) -> int:
    """That share the merge path."""
    return -(-(rows + params) // ITEMS)


def blocks_of(threads: int) -> int:
    return -(-threads // THREADS)


def merge_sums(
    starts: Tensor, columns: Tensor, values: Tensor, x: Tensor, zero_point: int | None = None
) -> tuple[Tensor, Tensor]:
    """(sums [M, rows], carries [M, threads]) of x [M, width]; a row's sum is whole with what `carried` adds.

    float32; or int32, of int8 values and x, where there is a zero_point.
    """
    m, rows, dtype = x.shape[0], starts.shape[0] - 1, torch.float32 if zero_point is None else torch.int32
    threads = threads_of(rows, values.shape[0])
    sums = torch.empty((m, rows), dtype=dtype, device=x.device)
    carries = torch.empty((m, threads), dtype=dtype, device=x.device)
    if m and rows:
        arrays = [view(t) for t in (starts, columns, values, x)]
        results = view(sums), view(carries)
        grid = (blocks_of(threads), grid_rows(m))
        if zero_point is None:
            merge_float_kernel[grid, THREADS, stream()](*arrays, *results)
        else:
            merge_int8_kernel[grid, THREADS, stream()](*arrays, zero_point, *results)
    return sums, carries


def csr_matmul(starts: Tensor, columns: Tensor, values: Tensor, x: Tensor) -> Tensor:
    """y float32 [M, rows] of x float32 [M, width], a CSR matrix times each row. Raises ShapeError where the parts do not fit;
    columns are the caller's to keep within x."""
    if starts.dim() != 1 or not starts.numel() or columns.shape != values.shape or x.dim() != 2:
        raise ShapeError(
            "csr", f"starts {tuple(starts.shape)}, columns {tuple(columns.shape)}, values {tuple(values.shape)}, "
            f"x {tuple(x.shape)}", "[rows + 1], [numbers], [numbers], [M, width]",
            "Take them from torch's crow_indices(), col_indices() and values().",
        )  # fmt: skip
    sums, carries = merge_sums(starts, columns, values, x)
    if sums.numel():
        grid = (blocks_of(sums.shape[1]), grid_rows(sums.shape[0]))
        add_carries_kernel[grid, THREADS, stream()](view(starts), view(sums), view(carries))
    return sums
