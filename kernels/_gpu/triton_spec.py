"""What a Triton kernel is compiled with: tiles, constants and argument types, in one immutable value.

A kernel file builds a `Specialisation` from a `Problem` and launches with exactly that, and the ahead-of-time
check compiles exactly that, so what is checked without a GPU is what runs on one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from rtaccel.core.errors import ShapeError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Tiling:
    """How a kernel cuts its problem. block_m rows, block_n outputs and block_k elements of the sum per program.

    num_warps: warps per program. num_stages: depth of the software pipeline of loads (1: none).
    """

    block_m: int
    block_n: int
    block_k: int
    num_warps: int
    num_stages: int = 1


MAX_N = 8 * 65535
"""Outputs of a layer: rows are along the first axis of a grid, which takes 2^31 - 1 programs, and outputs along the second, of
at least 8 a program, which takes 65535."""

INT8_MMA = r"IMMA|IGMMA|UTCIMMA"
BF16_MMA = r"HMMA|HGMMA|UTCHMMA"
FP8_MMA = r"QMMA|QGMMA|UTCQMMA|HMMA"
GPU_DP4A = r"IDP\.4A"
WIDE_LOAD = r"LDG\..*128"
ASYNC_COPY = r"LDGSTS"
SYSTEM_LOAD = r"LDG\..*STRONG\.SYS"
SYSTEM_STORE = r"STG\..*STRONG\.SYS"
SYSTEM_FENCE = r"MEMBAR\..*SYS"
DROPS_CACHE = r"CCTL\.IVALL"
FUSED = r"FFMA"
"""Families of machine instructions, as patterns of the start of a mnemonic: int8, bfloat16 and float8 tensor cores (all
generations; sm_89 may multiply float8 as float16), dp4a, 16-byte loads, asynchronous copies to shared memory, loads, stores
and fences that reach the host's memory, an acquire that empties the cache of a multiprocessor, fused multiply-add (with the
paired FFMA2 of sm_100)."""


@dataclass(frozen=True)
class Demands:
    """Machine instructions of one specialization: patterns of mnemonics that must occur, of those that must not, and of those
    that must occur in one place alone.

    What else its code may cost (registers, shared memory, barriers, instructions; stack and spills never) is in the budget
    file beside the tests, per architecture and version of triton.
    """

    requires: tuple[str, ...] = ()
    forbids: tuple[str, ...] = ()
    once: tuple[str, ...] = ()


@dataclass(frozen=True)
class Specialisation:
    """One compiled form of one kernel.

    kernel: the `triton.jit` function. signature: type of every run-time argument, in source order (`*i8`, `i32`).
    constants: every compile-time argument. Pointers are promised to be 16-byte aligned.
    oldest: the compute capability (times ten) from which it compiles.
    demands: of the compiled code; None for forms that are launched but not part of the check.
    slow: takes long to compile; the tests compile it now and then.
    cooperative: its programs wait for each other, so the device must hold all of them at once.
    registers: the most that a thread may have; 0 lets the assembler choose, which spares them so that more programs fit at once.
    """

    name: str
    kernel: Any
    signature: Mapping[str, str]
    constants: Mapping[str, Any]
    tiling: Tiling
    oldest: int = 80
    demands: Demands | None = None
    cooperative: bool = False
    slow: bool = False
    registers: int = 0

    def with_requirements(
        self, *requires: str, forbids: tuple[str, ...] = (), once: tuple[str, ...] = ()
    ) -> Specialisation:
        return replace(self, demands=Demands(requires, forbids, once))

    @property
    def options(self) -> dict[str, Any]:
        """Compiler options. Fused multiply-add is off: it would round `acc * multiplier + offset` once, not twice."""
        t = self.tiling
        options: dict[str, Any] = {"num_warps": t.num_warps, "num_stages": t.num_stages, "enable_fp_fusion": False}
        if self.registers:
            options["maxnreg"] = self.registers
        return {**options, "launch_cooperative_grid": True} if self.cooperative else options

    @property
    def keywords(self) -> dict[str, Any]:
        """Everything a launch passes by name: constants and options."""
        return {**self.constants, **self.options}


def leave_out(signature: Mapping[str, str], **used: Any) -> tuple[dict[str, str], dict[str, None]]:
    """(the signature without the arguments that are not used, None for each of those as a constant)."""
    absent = {name: None for name, on in used.items() if not on}
    return {name: kind for name, kind in signature.items() if name not in absent}, absent


def power_of_two(n: int, low: int, high: int) -> int:
    """The smallest power of two >= n, kept within low..high (both powers of two)."""
    return min(max(1 << max(n - 1, 0).bit_length(), low), high)


def ffma_tiling(m: int, n: int, k: int) -> Tiling:
    """For products on FFMA units, [m, k] by [k, n]. A tile of 64 reads half as much of shared memory for each product, one of 32
    spreads a small problem over more multiprocessors. Not measured on a card."""
    if (m // 64) * (n // 64) >= 256:
        return Tiling(64, 64, 16, num_warps=4)
    return Tiling(power_of_two(m, 16, 32), power_of_two(n, 16, 32), power_of_two(k, 16, 32), num_warps=4)


def require_matrix(op: str, x: Tensor, width: int, dtype: Any) -> None:
    """Raises ShapeError unless x is a contiguous matrix [M, width] of this dtype: kernels read raw addresses."""
    if x.ndim != 2 or x.shape[1] != width or x.dtype != dtype or not x.is_contiguous():
        got = f"{x.dtype} {tuple(x.shape)}, strides {x.stride()}"
        raise ShapeError(op, got, f"a contiguous {dtype} matrix [M, {width}]", "Convert, or call .contiguous().")


def require_row_scale(op: str, x: Tensor, row_scale: tuple[Tensor, ...], wanted: bool) -> None:
    """Raises ShapeError unless there is a float32 [M, 1] scale per row of x exactly where one is wanted."""
    import torch

    if len(row_scale) != wanted:
        expected = "x and row_scale" if wanted else "x alone"
        raise ShapeError(op, f"{len(row_scale)} row_scale", expected, "Pass the inputs of the stage, in order.")
    for scale in row_scale:
        require_matrix(op, scale, 1, torch.float32)
        if scale.shape[0] != x.shape[0]:
            raise ShapeError(op, f"{scale.shape[0]} row scales", f"{x.shape[0]}", "One scale per row.")


def require_residual(op: str, x: Tensor, residual: tuple[Tensor, ...], wanted: bool, width: int) -> None:
    """Raises ShapeError unless there is a float32 [M, width] residual exactly where one is wanted."""
    import torch

    if len(residual) != wanted:
        expected = "x and residual" if wanted else "x alone"
        raise ShapeError(op, f"{len(residual)} residuals", expected, "Pass the inputs of the stage, in order.")
    for r in residual:
        require_matrix(op, r, width, torch.float32)
        if r.shape[0] != x.shape[0]:
            raise ShapeError(op, f"{r.shape[0]} rows of residual", f"{x.shape[0]}", "Match the batch.")
