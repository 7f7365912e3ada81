"""Triton: kernels compiled for an NVIDIA GPU, or run on CPU tensors in Triton's interpreter.

The interpreter is for checking numbers on a machine without a GPU; it is slow by design and ranks below every
backend of the CPU. `TRITON_INTERPRET=1` must be set before triton is first imported, because triton decides
per function, when it is defined, whether it is compiled or interpreted.
"""

from __future__ import annotations

import os
import shutil
import sys

from rtaccel.backends.base import Backend
from rtaccel.backends.cuda_errors import dead
from rtaccel.core import settings

MIN_CAPABILITY = (8, 0)
"""Oldest compute capability the kernels are compiled and checked for (int8 tensor cores with K = 32)."""

CHECKED_ARCHITECTURES = (80, 86, 87, 89, 90, 100, 110, 120)
"""Compute capabilities times ten that every kernel is compiled for: A100, RTX 30, Orin, L4 and RTX 40, H100, B200, Thor,
RTX 50."""

_INTERPRETING = settings.triton_interpret()
"""As it was when this module was first imported; `unavailable` says so if it has changed since."""


def _in_interpreter() -> bool:
    """Whether triton's own library functions were defined as interpreted ones. Imports triton."""
    import triton.language as tl

    return type(tl.sum).__name__ == "InterpretedFunction"  # its module is not imported: not every numpy suits it


def _mismatch() -> str | None:
    wanted = settings.triton_interpret()
    if wanted != _INTERPRETING:
        return f"{settings.TRITON_INTERPRET} was changed after rtaccel looked at it; set it before Python starts"
    if "triton" in sys.modules and _in_interpreter() != wanted:
        return f"{settings.TRITON_INTERPRET} was changed after triton was imported; set it before Python starts"
    return None


def unavailable() -> str | None:
    """None, or why no Triton kernel can run in this process."""
    if settings.find_module("triton") is None:
        return "triton is not installed (pip install 'rtaccel[gpu]'; triton has wheels for Linux)"
    mismatch = _mismatch()
    if mismatch is not None:
        return mismatch
    if settings.triton_interpret():
        return None
    if dead() is not None:
        return dead()
    import torch

    if not torch.cuda.is_available():
        why = "" if torch.version.cuda else f" and torch {torch.__version__} is built without CUDA"
        return (
            f"no CUDA device was found{why}; run on a machine with an NVIDIA GPU, or set "
            f"{settings.TRITON_INTERPRET}=1 before Python starts to run the kernels in the interpreter on CPU tensors"
        )
    capability = torch.cuda.get_device_capability()
    if capability < MIN_CAPABILITY:
        name = torch.cuda.get_device_name()
        return f"{name} has compute capability {capability[0]}.{capability[1]}; the kernels need 8.0 or newer"
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")) and not _built_ahead():
        return (
            "triton builds its launcher with a C compiler and found none; install gcc or clang, or set CC, or build the "
            "kernels ahead (rtaccel build-kernels) and install cuda-core"
        )
    return None


def _built_ahead() -> bool:
    """Whether kernels may come from a folder, and nothing needs to be compiled here."""
    there = any(any(folder.glob("*.cubin")) for folder in settings.kernel_folders() if folder.is_dir())
    return there and settings.find_module("cuda") is not None


def facts() -> dict[str, object]:
    """Triton's version and where its kernels run; for use where `unavailable()` is None."""
    import torch
    import triton

    found: dict[str, object] = {"triton": triton.__version__, "interpreter": settings.triton_interpret()}
    if not settings.triton_interpret() and torch.cuda.is_available():
        major, minor = torch.cuda.get_device_capability()
        found |= {"card": torch.cuda.get_device_name(), "capability": f"{major}.{minor}", "cuda": torch.version.cuda}
    return found


BACKEND = Backend(
    name="triton",
    rank=5,
    devices=("cpu",) if _INTERPRETING else ("cuda",),
    unavailable=unavailable,
    remedy=f"Run on a machine with an NVIDIA GPU and a torch that is built for CUDA, or set {settings.TRITON_INTERPRET}=1.",
    facts=facts,
)
