"""Launching a stored cubin through cuda-core: no compiler, no JIT, neither triton's launcher nor its driver.

The parameters are the function's own in order, pointers as 64-bit addresses, then two pointers to scratch memory that our
kernels do not use. cuda-core needs a driver as soon as it is imported, so it is imported when the first kernel is bound.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np

from rtaccel.core.errors import BackendUnavailable, FormatError, ShapeError
from rtaccel.kernels._shared.cubin_store import Cubin

ALIGNMENT = 16
STATIC_LIMIT = 48 << 10
"""Shared memory that a function may use without being told to."""

SCALARS: Mapping[str, Callable[[Any], Any]] = {"i32": np.int32, "i64": np.int64, "fp32": np.float32, "u32": np.uint32}


def unavailable() -> str | None:
    """None, or why stored kernels cannot be launched."""
    try:
        found = importlib.util.find_spec("cuda.core")
    except (ImportError, ValueError):
        found = None
    return None if found is not None else "cuda-core is not installed (pip install 'rtaccel[cuda]')"


def pack(cubin: Cubin, arguments: Mapping[str, Any]) -> list[Any]:
    """The arguments of a launch as numpy scalars of the widths that the function reads.

    Raises ShapeError for a pointer that is not aligned as the code was promised, which would fault on the card.
    """
    packed: list[Any] = []
    for name, kind in cubin.parameters:
        value = arguments[name]
        if not kind.startswith("*"):
            packed.append(SCALARS[kind](value))
            continue
        address = value.data_ptr()
        if address % ALIGNMENT:
            raise ShapeError(
                cubin.name, f"{name} at {address:#x}", f"an address that {ALIGNMENT} divides",
                "Pass tensors that torch allocated, or clone() a slice.",
            )  # fmt: skip
        packed.append(np.uint64(address))
    return [*packed, np.uint64(0), np.uint64(0)]


@cache
def _core() -> Any:
    reason = unavailable()
    if reason is not None:
        raise BackendUnavailable("kernels", "stored cubins", f"a way to launch them ({reason})", "Install it.")
    return importlib.import_module("cuda.core")


class _CurrentStream:
    """torch's stream of the moment, asked at every launch: one that is kept would miss a capture."""

    def __cuda_stream__(self) -> tuple[int, int]:
        import torch

        return (0, torch.cuda.current_stream().cuda_stream)


def load(cubin: Cubin) -> Callable[..., None]:
    """launch(grid, **arguments) of a stored kernel. Loads it onto the current device."""
    if cubin.global_scratch_bytes or cubin.profile_scratch_bytes:
        raise FormatError(cubin.name, "a kernel with scratch memory", "one without", "Please report this kernel.")
    import torch

    core = _core()
    core.Device(torch.cuda.current_device()).set_current()
    function = core.ObjectCode.from_cubin(cubin.code, name=cubin.name).get_kernel(cubin.entry)
    expected = len(cubin.parameters) + 2
    if function.num_arguments != expected:
        raise FormatError(
            cubin.name, f"a function of {function.num_arguments} parameters", f"{expected}", "Build the kernels again."
        )
    if cubin.shared_bytes > STATIC_LIMIT:
        _allow_shared(function, cubin.shared_bytes)
    block, stream = 32 * cubin.num_warps, _CurrentStream()

    def launch(grid: tuple[int, ...], **arguments: Any) -> None:
        config = core.LaunchConfig(
            grid=grid, block=block, shmem_size=cubin.shared_bytes, is_cooperative=cubin.cooperative
        )
        core.launch(stream, config, function, *pack(cubin, arguments))

    return launch


def _allow_shared(function: Any, size: int) -> None:
    driver = importlib.import_module("cuda.bindings.driver")
    attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    status, handle = driver.cuKernelGetFunction(function.handle)
    if status == driver.CUresult.CUDA_SUCCESS:
        (status,) = driver.cuFuncSetAttribute(handle, attribute, size)
    if status != driver.CUresult.CUDA_SUCCESS:
        raise BackendUnavailable(
            "kernels", f"{size} bytes of shared memory", f"what this card has ({status.name})", "Build for this card."
        )
