"""Numba CUDA: a few kernels again, in plain Python: to read, to compare with, and to run in Numba's simulator.

`NUMBA_ENABLE_CUDASIM=1` must be set before numba is first imported. A launch costs several microseconds per array, so on a GPU
these belong in a graph, and rank below Triton's.
"""

from __future__ import annotations

from rtaccel.backends.base import Backend
from rtaccel.backends.cuda_errors import dead
from rtaccel.core import settings

PACKAGES = ("numba_cuda_mlir", "numba_cuda")
"""The successor, which has no simulator, and numba-cuda, which is maintained but not developed further."""

_SIMULATING = settings.numba_simulator()


def _installed() -> list[str]:
    return [name for name in PACKAGES if settings.find_module(name) is not None]


def unavailable() -> str | None:
    """None, or why no Numba CUDA kernel can run in this process."""
    if settings.numba_simulator() != _SIMULATING:
        return f"{settings.NUMBA_SIMULATOR} was changed after rtaccel looked at it; set it before Python starts"
    found = _installed()
    if _SIMULATING:
        missing = "numba-cuda, which has the simulator, is not installed (pip install 'rtaccel[numba]')"
        return None if "numba_cuda" in found else missing
    if not found:
        return "numba-cuda is not installed (pip install 'rtaccel[numba]')"
    if dead() is not None:
        return dead()
    import torch

    if not torch.cuda.is_available():
        return (
            f"no CUDA device was found; run on a machine with an NVIDIA GPU, or set {settings.NUMBA_SIMULATOR}=1 before "
            "Python starts to run the kernels in the simulator on CPU tensors"
        )
    return None


def facts() -> dict[str, object]:
    """Which package, and where its kernels run; for use where `unavailable()` is None."""
    return {"package": "numba_cuda" if _SIMULATING else _installed()[0], "simulator": _SIMULATING}


BACKEND = Backend(
    name="numba_cuda",
    rank=1,
    devices=("cpu",) if _SIMULATING else ("cuda",),
    unavailable=unavailable,
    remedy=f"Run on a machine with an NVIDIA GPU and a torch that is built for CUDA, or set {settings.NUMBA_SIMULATOR}=1.",
    facts=facts,
)
