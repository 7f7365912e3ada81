"""Every environment variable that rtaccel reads, in one place.

Read when asked, never on a hot path: a choice is made once, at compile time, and its function bound.
"""

from __future__ import annotations

import os
from pathlib import Path

CPU_ISA = "RTACCEL_CPU_ISA"
"""The instruction set the native core may use, with those it includes (unset: all the CPU has): portable, avx2, avxvnni,
avx512, avx512vnni, avx512bf16, avx512vbmi on x86-64; portable, neon, neondot on AArch64. avxvnni and avx512 both include
avx2, and neither the other.

The native core reads it itself, once, when it is loaded."""

TEST_DATA = "RTACCEL_TEST_DATA"
"""Folder with the recordings and trained weights that some tests and benchmarks read."""

TRITON_INTERPRET = "TRITON_INTERPRET"
"""1: Triton kernels run in Triton's interpreter, on CPU tensors."""

KERNELS = "RTACCEL_KERNELS"
"""Folder of GPU kernels built ahead by `rtaccel build-kernels`; unset: ~/.cache/rtaccel/kernels."""

NO_JIT = "RTACCEL_NO_JIT"
"""1: a GPU kernel that was not built ahead is an error, and never compiled."""


NUMBA_SIMULATOR = "NUMBA_ENABLE_CUDASIM"
"""1: Numba's CUDA kernels run in Numba's simulator, on CPU tensors."""


def numba_simulator() -> bool:
    return os.environ.get(NUMBA_SIMULATOR, "0") not in ("", "0")


def kernel_folder() -> Path:
    return Path(os.environ.get(KERNELS) or Path.home() / ".cache" / "rtaccel" / "kernels")


def no_jit() -> bool:
    return os.environ.get(NO_JIT, "0") not in ("", "0")


def triton_interpret() -> bool:
    return os.environ.get(TRITON_INTERPRET, "0") not in ("", "0")


def test_data() -> Path:
    """Folder of test data; it may not exist, and a caller then skips with the reason."""
    return Path(os.environ.get(TEST_DATA, "../shared/data"))
