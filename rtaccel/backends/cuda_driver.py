"""The few entry points of the CUDA driver that torch does not have, by ctypes: streams of our own, functions loaded before they
are launched, and how the driver loads code.

Nothing here is called where there is no GPU. The tests put a card that a class plays in the place of `driver`.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache
from typing import Protocol

from rtaccel.core.errors import BackendUnavailable

KERNEL_EXEC_TIMEOUT, CAN_MAP_HOST_MEMORY, MULTIPROCESSORS = 17, 19, 16
"""CUdevice_attribute: whether the driver ends long kernels, whether kernels see the memory of the host, and a count."""

MODULE_LOADING, CONNECTIONS, LAUNCH_BLOCKING = (
    "CUDA_MODULE_LOADING", "CUDA_DEVICE_MAX_CONNECTIONS", "CUDA_LAUNCH_BLOCKING",
)  # fmt: skip
DEFAULT_CONNECTIONS = 8
NON_BLOCKING = 1
SYNC_MEMOPS = 6
"""CUpointer_attribute that memory must have which others than the driver write to."""

EAGER = 1
SUCCESS, NOT_READY, NOT_SUPPORTED = 0, 600, 801


class Driver(Protocol):
    def attribute(self, attribute: int, device: int) -> int:
        """A number of a device. Raises BackendUnavailable where the driver does not give it."""

    def loads_eagerly(self) -> bool:
        """Whether a module's functions are loaded with it, and not when each is first launched."""

    def new_stream(self) -> int:
        """A stream that waits for no other, the default one included, with the highest priority; nobody else is given it."""

    def allocate(self, size: int) -> int:
        """Device memory that no allocator of torch's has, by its address, and that the host may map. It is never freed."""


class LibCuda:
    """libcuda.so.1 on the current device of torch."""

    def __init__(self) -> None:
        try:
            self._lib = ctypes.CDLL("libcuda.so.1")
        except OSError as error:
            raise BackendUnavailable(
                "cuda", f"libcuda.so.1: {error}", "the CUDA driver", "Install NVIDIA's driver, or use device='cpu'."
            ) from error

    def _call(self, name: str, *arguments: object) -> None:
        status = getattr(self._lib, name)(*arguments)
        if status != SUCCESS:
            text = ctypes.c_char_p()
            self._lib.cuGetErrorName(status, ctypes.byref(text))
            said = text.value.decode() if text.value else f"error {status}"
            raise BackendUnavailable("cuda", f"{name}: {said}", "a driver that answers", "Start a new process.")

    def attribute(self, attribute: int, device: int) -> int:
        value = ctypes.c_int(-1)
        self._call("cuDeviceGetAttribute", ctypes.byref(value), attribute, device)
        return value.value

    def loads_eagerly(self) -> bool:
        if not hasattr(self._lib, "cuModuleGetLoadingMode"):  # before CUDA 11.7 there was no other way
            return True
        mode = ctypes.c_int(0)
        self._call("cuModuleGetLoadingMode", ctypes.byref(mode))
        return mode.value == EAGER

    def new_stream(self) -> int:
        least, greatest, stream = ctypes.c_int(0), ctypes.c_int(0), ctypes.c_void_p()
        self._call("cuCtxGetStreamPriorityRange", ctypes.byref(least), ctypes.byref(greatest))
        self._call("cuStreamCreateWithPriority", ctypes.byref(stream), NON_BLOCKING, greatest)
        return int(stream.value or 0)

    def allocate(self, size: int) -> int:
        address, in_order = ctypes.c_uint64(), ctypes.c_uint(1)
        self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(size))
        self._call("cuPointerSetAttribute", ctypes.byref(in_order), SYNC_MEMOPS, address)
        return address.value


@cache
def driver() -> Driver:
    """The driver of this process. Raises BackendUnavailable where there is none."""
    return LibCuda()


def connections() -> int:
    """Hardware queues that the streams of this process share; a kernel waits for what is before it in its queue."""
    value = os.environ.get(CONNECTIONS, "")
    return int(value) if value.isdigit() and value != "0" else DEFAULT_CONNECTIONS


def launches_block() -> bool:
    """Whether every launch waits for its kernel (CUDA_LAUNCH_BLOCKING)."""
    return os.environ.get(LAUNCH_BLOCKING, "0") not in ("", "0")
