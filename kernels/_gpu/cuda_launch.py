"""How a kernel in CUDA C++ is launched: from the store, else compiled by NVRTC, unless that is forbidden.

What is compiled here is kept in the folder of `rtaccel build-kernels`, so that it is compiled once.
"""

from __future__ import annotations

import contextlib
from typing import Any

from rtaccel.backends import cuda_persistent
from rtaccel.core import settings
from rtaccel.kernels._gpu import cubin_launch, cuda_nvrtc, triton_launch
from rtaccel.kernels._gpu.cubin_store import Cubin, CubinStore
from rtaccel.kernels._gpu.cuda_nvrtc import CudaKernel, compile_cubin


def unavailable(kernel: CudaKernel) -> str | None:
    """None, or why this kernel can be had neither from the store nor from a compiler."""
    if triton_launch.is_recording() or triton_launch.is_playing():
        return None
    reason = cubin_launch.unavailable()
    if reason is not None or triton_launch.built_ahead(kernel.key) is not None:
        return reason
    if not triton_launch.may_compile():
        return f"it was not built ahead, and {settings.NO_JIT} or load_kernels(otherwise='refuse') forbids compiling"
    return cuda_nvrtc.unavailable()


def bind(kernel: CudaKernel) -> triton_launch.Launch:
    """launch(grid, **run-time arguments by name), loaded: later launches load nothing.

    Raises BackendUnavailable where it would have to be compiled and there is no NVRTC, or RTACCEL_NO_JIT forbids it.
    """
    if triton_launch.is_playing():
        return triton_launch.played_launch(kernel)
    if triton_launch.record(kernel.key, kernel):
        return triton_launch.refuse
    return cubin_launch.load(triton_launch.built_ahead(kernel.key) or _compiled(kernel))


def has_room(kernel: CudaKernel) -> bool:
    """Whether the device holds the kernel's cluster, beside what persistent kernels have of it. Loads the kernel, to ask.

    Each multiprocessor that another has may be in the way of one cluster. Where kernels are recorded it is not known, and so
    both forms are wanted.
    """
    if not kernel.cluster:
        return True
    if triton_launch.is_playing():
        return triton_launch.has_played_room()
    if triton_launch.record(kernel.key, kernel):
        return False
    loaded = cubin_launch.load(triton_launch.built_ahead(kernel.key) or _compiled(kernel))
    return loaded.clusters() > cuda_persistent.taken(_device())


_in_process: dict[tuple[str, int], Cubin] = {}


def _compiled(kernel: CudaKernel) -> Cubin:
    if not triton_launch.may_compile():
        raise triton_launch.forbidden(kernel.name)
    capability = _capability()
    found = _in_process.get((kernel.key, capability))
    if found is None:
        found = _in_process[kernel.key, capability] = compile_cubin(kernel, capability)
        with contextlib.suppress(OSError):  # a folder that nobody may write to: it is compiled again next time
            CubinStore(settings.kernel_folder()).put(found)
    return found


def _device() -> int:
    import torch

    return int(torch.cuda.current_device())


def _capability() -> Any:
    import torch

    major, minor = torch.cuda.get_device_capability()
    return 10 * major + minor
