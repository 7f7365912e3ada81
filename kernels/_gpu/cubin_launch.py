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

from rtaccel.backends import cuda_persistent
from rtaccel.backends.cuda_errors import translated
from rtaccel.core.errors import BackendUnavailable, FormatError, ShapeError
from rtaccel.kernels._gpu.cubin_store import Cubin

ALIGNMENT = 16
STATIC_LIMIT = 48 << 10
"""Shared memory that a function may use without being told to."""

PORTABLE_CLUSTER = 8
"""Blocks of a cluster that every card with clusters has room for."""

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


def _bindings() -> Any:
    return importlib.import_module("cuda.bindings.driver")


class _CurrentStream:
    """torch's stream of the time step, asked at every launch: one that is kept would miss a capture."""

    def __cuda_stream__(self) -> tuple[int, int]:
        import torch

        return (0, torch.cuda.current_stream().cuda_stream)


class Loaded:
    """A stored kernel on a device: launch(grid, **arguments), on torch's current stream."""

    def __init__(self, cubin: Cubin, function: Any) -> None:
        self._cubin, self._function, self._stream = cubin, function, _CurrentStream()

    def __call__(self, grid: tuple[int, ...], **arguments: Any) -> None:
        core, cubin = _core(), self._cubin
        config = core.LaunchConfig(
            grid=grid, block=32 * cubin.num_warps, shmem_size=cubin.shared_bytes, is_cooperative=cubin.cooperative
        )
        core.launch(self._stream, config, self._function, *pack(cubin, arguments))

    def load(self, grid: tuple[int, ...], **arguments: Any) -> None:
        """It is loaded."""

    def clusters(self) -> int:
        """How many of its clusters the device has room for at once, with nothing else on it; 0 where it has none of this size."""
        driver, cubin = _bindings(), self._cubin
        config = driver.CUlaunchConfig()
        config.gridDimX, config.gridDimY, config.gridDimZ = cubin.cluster, 1, 1
        config.blockDimX, config.blockDimY, config.blockDimZ = 32 * cubin.num_warps, 1, 1
        config.sharedMemBytes = cubin.shared_bytes
        status, handle = driver.cuKernelGetFunction(self._function.handle)
        count = 0
        if status == driver.CUresult.CUDA_SUCCESS:  # the code says the size of a cluster, so a launch need not
            status, count = driver.cuOccupancyMaxActiveClusters(handle, config)
        if status == driver.CUresult.CUDA_ERROR_INVALID_CLUSTER_SIZE:
            return 0
        if status != driver.CUresult.CUDA_SUCCESS:
            raise BackendUnavailable(
                "kernels", f"{cubin.name}, whose clusters the driver did not count ({status.name})", "a number",
                "Start a new process.",
            )  # fmt: skip
        return int(count)


_loaded: dict[tuple[int, str], Loaded] = {}
"""By device and key. They stay: the driver waits for the device to load code, and to unload it."""


def load(cubin: Cubin) -> Loaded:
    """A stored kernel on the current device, loaded once and for good. Raises BackendUnavailable where a persistent kernel runs
    and it is not loaded yet."""
    if cubin.global_scratch_bytes or cubin.profile_scratch_bytes:
        raise FormatError(cubin.name, "a kernel with scratch memory", "one without", "Please report this kernel.")
    import torch

    device = torch.cuda.current_device()
    found = _loaded.get((device, cubin.key))
    if found is None:
        cuda_persistent.refuse_loading("kernels", cubin.name)
        with translated("kernels"):
            function = cuda_persistent.within(
                cuda_persistent.LOAD_S, "kernels", f"loading {cubin.name}", lambda: _function(cubin, device)
            )
        found = _loaded[device, cubin.key] = Loaded(cubin, function)
    return found


def _function(cubin: Cubin, device: int) -> Any:
    core = _core()
    core.Device(device).set_current()
    function = core.ObjectCode.from_cubin(cubin.code, name=cubin.name).get_kernel(cubin.entry)
    expected = len(cubin.parameters) + 2
    if function.num_arguments != expected:
        raise FormatError(
            cubin.name, f"a function of {function.num_arguments} parameters", f"{expected}", "Build the kernels again."
        )
    _make_ready(function, cubin.shared_bytes, cubin.cluster)
    return function


def _make_ready(function: Any, shared_bytes: int, cluster: int) -> None:
    """Has the driver load the function now (CUDA_MODULE_LOADING=LAZY, its default, waits for the first launch), and allows its
    shared memory and its clusters. A size of those that the device does not have is no error here: `clusters` says it."""
    driver = _bindings()
    good = driver.CUresult.CUDA_SUCCESS
    status, handle = driver.cuKernelGetFunction(function.handle)
    if status == good and hasattr(driver, "cuFuncLoad"):  # since CUDA 12.4
        (status,) = driver.cuFuncLoad(handle)
    if status != good:
        raise BackendUnavailable(
            "kernels", f"a function that is not loaded ({status.name})", "one that is", "Start a new process."
        )
    if cluster > PORTABLE_CLUSTER:
        driver.cuFuncSetAttribute(
            handle, driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED, 1
        )
    if shared_bytes <= STATIC_LIMIT:
        return
    attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    (status,) = driver.cuFuncSetAttribute(handle, attribute, shared_bytes)
    if status != good:
        raise BackendUnavailable(
            "kernels", f"{shared_bytes} bytes of shared memory", f"what this card has ({status.name})",
            "Build for this card.",
        )  # fmt: skip
