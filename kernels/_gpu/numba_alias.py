"""The one place that imports Numba's CUDA, whichever package has it, and what its kernels share.

`cuda` is numba_cuda_mlir's where that is installed and nothing is simulated, else numba-cuda's, which keeps numba's own name.
Kernels stay in what the simulator runs: shared memory and barriers, no warp shuffles, no intrinsics of the device.
"""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rtaccel.core import settings

SIMULATED = settings.numba_simulator()


def _cuda() -> Any:
    if not SIMULATED and importlib.util.find_spec("numba_cuda_mlir") is not None:
        return importlib.import_module("numba_cuda_mlir.cuda")
    return importlib.import_module("numba.cuda")


cuda: Any = _cuda()

THREADS = 32
"""Of a block: a sum over them is five steps through shared memory."""

MAX_ROWS = 65_535
"""Blocks along the second axis of a grid, which CUDA allows. Outputs are along the first, which takes 2^31 - 1."""


def grid_rows(rows: int) -> int:
    """Blocks for so many rows: a kernel takes every `gridDim.y`-th of them."""
    return min(rows, MAX_ROWS)


@dataclass(frozen=True)
class PtxSpec:
    """A kernel as it is compiled to PTX on machines without a GPU. signature: types of its arguments, in Numba's words.

    requires, forbids: patterns of the start of a PTX instruction that must occur, and of those that must not. A kernel file gives
    its forms by a function `ptx_forms`, and the tests find them.
    """

    name: str
    kernel: Any
    signature: str
    requires: tuple[str, ...] = ()
    forbids: tuple[str, ...] = ()


FUSED = r"fma\.rn\.f32|mad\.f32"
NARROW_INDEX = r"(mul|mad)\.lo\.[su]32"
"""Multiply-adds that round once, and products of 32-bit indices, which wrap in arrays of more than 2^31 numbers."""


@cuda.jit(device=True)
def sum_into_first(parts: Any, thread: Any) -> None:
    """The numbers of a block in shared memory, added up in `parts[0]`; every thread of the block takes part."""
    cuda.syncthreads()
    step = THREADS // 2
    while step > 0:
        if thread < step:
            parts[thread] += parts[thread + step]
        cuda.syncthreads()
        step //= 2


def view(t: Tensor) -> Any:
    """The tensor as a kernel takes it, in its own memory: Numba reads torch's CUDA tensors, its simulator numpy arrays."""
    return t.detach().numpy() if SIMULATED else cuda.as_cuda_array(t.detach())


def stream() -> Any:
    """torch's current stream, asked at every launch; the simulator has none."""
    return 0 if SIMULATED else cuda.external_stream(torch.cuda.current_stream().cuda_stream)


def _multiply(a: Any, b: Any) -> Any:
    return a * b


def multiply_rn() -> Any:
    """A product that rounds before anything is added to it: without its own name the compiler may fuse it with the sum."""
    if SIMULATED:
        return cuda.jit(device=True)(_multiply)
    return importlib.import_module(cuda.__name__ + ".libdevice").fmul_rn
