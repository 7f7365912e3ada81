"""Every environment variable that rtaccel reads, in one place.

Read when asked, never on a hot path: a choice is made once, at compile time, and its function bound.
"""

from __future__ import annotations

import importlib.util
import os
from importlib.machinery import ModuleSpec
from pathlib import Path

from rtaccel.core.errors import BackendUnavailable

CPU_ISA = "RTACCEL_CPU_ISA"
"""The instruction set the native core may use, with those it includes (unset: all the CPU has). `rtaccel.backends.cpu.isas`
lists them; the table is kernels/_core/isa.def. avxvnni and avx512 both include avx2, and neither the other.

The native core reads it itself, once, when it is loaded."""

TEST_DATA = "RTACCEL_TEST_DATA"
"""Folder with the recordings and trained weights that some tests and benchmarks read."""

STAGE_TIMES = "RTACCEL_STAGE_TIMES"
"""Folder of the stage times that `rt.fit_budget` measured here; unset: ~/.cache/rtaccel/stage_times. 0: none is kept."""

TRITON_INTERPRET = "TRITON_INTERPRET"
"""1: Triton kernels run in Triton's interpreter, on CPU tensors."""

KERNELS = "RTACCEL_KERNELS"
"""Folder of GPU kernels built ahead by `rtaccel build-kernels`; unset: ~/.cache/rtaccel/kernels."""

KERNEL_PACKAGE = "rtaccel_kernels"
"""Namespace package whose folders hold kernels built ahead: any number of wheels may put theirs there."""

NO_JIT = "RTACCEL_NO_JIT"
"""1: a GPU kernel that was not built ahead is an error, and never compiled."""


MAILBOX = "RTACCEL_MAILBOX"
"""Where messages to persistent kernels are: "host" (unset), pinned memory of the host, which the card polls over the link; "gdr",
the card's memory, into which the host writes by GDRCopy, and which every block of a kernel polls."""

NUMBA_SIMULATOR = "NUMBA_ENABLE_CUDASIM"
"""1: Numba's CUDA kernels run in Numba's simulator, on CPU tensors."""


def numba_simulator() -> bool:
    return os.environ.get(NUMBA_SIMULATOR, "0") not in ("", "0")


def find_module(name: str) -> ModuleSpec | None:
    """What an import of a top-level module would find, without importing it."""
    try:
        return importlib.util.find_spec(name)
    except ValueError:  # sys.modules holds a placeholder without a spec
        return None


def kernel_folder() -> Path:
    return Path(os.environ.get(KERNELS) or Path.home() / ".cache" / "rtaccel" / "kernels")


def kernel_folders() -> list[Path]:
    """Where kernels built ahead are looked for, in this order: $RTACCEL_KERNELS and nothing else where it is set; else what
    wheels brought as `rtaccel_kernels`, then the folder that `rtaccel build-kernels` writes to."""
    if os.environ.get(KERNELS):
        return [kernel_folder()]
    found = find_module(KERNEL_PACKAGE)
    brought = (found.submodule_search_locations or ()) if found is not None else ()
    return [*map(Path, brought), kernel_folder()]


def stage_times() -> Path:
    return Path(os.environ.get(STAGE_TIMES) or Path.home() / ".cache" / "rtaccel" / "stage_times")


def keeps_stage_times() -> bool:
    return os.environ.get(STAGE_TIMES) != "0"


def no_jit() -> bool:
    return os.environ.get(NO_JIT, "0") not in ("", "0")


def mailbox() -> str:
    """ "host" or "gdr". Raises BackendUnavailable for anything else."""
    found = os.environ.get(MAILBOX) or "host"
    if found not in ("host", "gdr"):
        raise BackendUnavailable("persistent", f"{MAILBOX}={found}", "'host' or 'gdr'", "Set it so, or unset it.")
    return found


def triton_interpret() -> bool:
    return os.environ.get(TRITON_INTERPRET, "0") not in ("", "0")


def test_data() -> Path:
    """Folder of test data; it may not exist, and a caller then skips with the reason."""
    return Path(os.environ.get(TEST_DATA, "../shared/data"))
