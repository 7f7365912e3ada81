"""CuPy in miniature over memory of the CPU: arrays that speak DLPack, streams, and kernels that get addresses.

A log has what was launched on which stream; whatever would wait for a stream, an event or the device is in it, too.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch


class FakeArray:
    """An array of the CPU that speaks DLPack, as CuPy's speak it for a GPU."""

    def __init__(self, data: np.ndarray) -> None:
        self.data = data

    def __dlpack__(self, **options: Any) -> Any:
        return self.data.__dlpack__()

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.data.__dlpack_device__()


class NumpyArray(np.ndarray):
    """An array that is CuPy's to the library, and numpy's to numpy."""


class FakeCupy:
    """A module: `log` is what was done, in order. Stream 0 is current at first."""

    ndarray = FakeArray

    def __init__(self) -> None:
        self.log: list[str] = []
        self._current = [SimpleNamespace(ptr=0)]
        self.cuda = SimpleNamespace(
            ExternalStream=self.stream,
            Stream=lambda **_: self.stream(77),
            get_current_stream=lambda: self._current[-1],
            Device=lambda *_: SimpleNamespace(synchronize=lambda: self.log.append("the device waits")),
            Event=lambda **_: SimpleNamespace(synchronize=lambda: self.log.append("an event waits")),
            runtime=SimpleNamespace(deviceSynchronize=lambda: self.log.append("the device waits")),
        )

    @contextmanager
    def stream(self, ptr: int) -> Iterator[Any]:
        own = SimpleNamespace(ptr=ptr, synchronize=lambda: self.log.append(f"{ptr} waits"))
        self._current.append(own)
        try:
            yield own
        finally:
            self._current.pop()

    @staticmethod
    def from_dlpack(tensor: torch.Tensor) -> FakeArray:
        return FakeArray(np.from_dlpack(tensor))

    def like_numpy(self, name: str) -> Any:
        """What of CuPy is numpy's: the functions, and what they give is noted as launched on the current stream."""
        found: Any = np
        for part in name.split("."):
            found = getattr(found, part)
        if not callable(found) or isinstance(found, type):
            return found

        def call(*arguments: Any, **options: Any) -> Any:
            self.log.append(f"{name} on {self._current[-1].ptr}")
            return np.asarray(found(*arguments, **options)).view(NumpyArray)

        return call

    def kernel(self, name: str, compute: Callable[..., None]) -> Callable[..., None]:
        """In the place of a RawKernel. compute: (grid, block, *arguments), addresses as whole numbers."""

        def launch(grid: Any, block: Any, arguments: Any, *, shared_mem: int = 0) -> None:
            self.log.append(f"{name} on {self._current[-1].ptr}")
            assert all(isinstance(a, np.generic) for a in arguments)
            compute(grid, block, *(int(a) if isinstance(a, np.integer) else float(a) for a in arguments))

        return launch


def floats(address: int, count: int) -> np.ndarray:
    """float32 numbers that lie at an address."""
    return np.frombuffer((ctypes.c_float * count).from_address(address), np.float32)
