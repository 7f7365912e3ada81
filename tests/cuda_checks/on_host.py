"""A persistent kernel in CUDA C++ on a CPU: the same source, compiled by g++ with fibers for threads (cuda_on_host.h), in the
place of a GPU under the real host side."""

from __future__ import annotations

import ctypes
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

from rtaccel.backends import cuda_persistent
from rtaccel.kernels._gpu import cuda_launch, cuda_nvrtc
from rtaccel.kernels._gpu.cuda_nvrtc import CudaKernel
from rtaccel.runtime.gpu import persistent, persistent_choice
from tests.cuda_checks.threaded_device import ThreadedDevice
from tests.support import kept

HERE = Path(__file__).parent
COMPILER = os.environ.get("CXX", "g++")
FLAGS = ("-std=c++17", "-O1", "-ffp-contract=off", "-Wall", "-Wno-unknown-pragmas", "-pthread")
SCALARS = {"fp32": ctypes.c_float, "i32": ctypes.c_int}


def missing() -> str | None:
    return None if shutil.which(COMPILER) else f"{COMPILER} is not here"


def build(kernel: CudaKernel, name: str, *flags: str, looks: int = 1 << 22) -> Path:
    """The kernel's form as a file for a CPU, kept between runs. It looks at the abort word soon."""
    definitions = {**dict(kernel.definitions), "RTA_SPINS": 4, "RTA_LOOKS": looks}
    (around,) = HERE.rglob(f"{Path(kernel.file).stem}_on_host.cc")
    command = [
        COMPILER, *FLAGS, *flags, f"-I{cuda_nvrtc.FOLDER}", f"-I{HERE}", *(f"-D{k}={v}" for k, v in definitions.items()),
        str(around),
    ]  # fmt: skip
    sources = (around, HERE / "cuda_on_host.h", HERE / "kernel_arguments.h")
    return kept.compiled_by(command, sources, name, kernel.key)


Launch = Callable[..., None]


def launcher(kernel: CudaKernel, path: Path, *how: int, streams: bool) -> Launch:
    """launch(grid, **arguments by name) of what `build` made. how: what its function takes behind the arguments; streams: the
    second number of the grid, first of all."""
    run = ctypes.CDLL(str(path)).rtaccel_on_host

    def launch(grid: tuple[int, ...], **given: Any) -> None:
        numbers = [SCALARS[kind](given[name]) for name, kind in kernel.parameters if not kind.startswith("*")]
        at = iter(numbers)
        addresses = [
            given[name].data_ptr() if kind.startswith("*") else ctypes.addressof(next(at))
            for name, kind in kernel.parameters
        ]
        run((ctypes.c_void_p * len(addresses))(*addresses), *((grid[1],) if streams else ()), *how)

    return launch


@dataclass(frozen=True)
class HostLaunch:
    """A kernel of a graph. seed: of the order of the fibers. skipped: a line at whose barrier nobody waits. dropped: a word that
    time step 2 lacks."""

    seed: int = 1
    skipped: int = 0
    dropped: int = -1
    looks: int = 1 << 22

    def bind(self, kernel: CudaKernel) -> Launch:
        """In the place of cuda_launch.bind."""
        path = build(kernel, "streams.so", "-shared", "-fPIC", looks=self.looks)
        return launcher(kernel, path, self.seed, self.skipped, self.dropped, streams=True)


@contextmanager
def results_filled() -> Iterator[None]:
    """What is made inside and not written stays NaN, or 85."""
    allocate = torch.empty

    def filled(*args: Any, **kwargs: Any) -> Tensor:
        t = allocate(*args, **kwargs)
        return t.fill_(float("nan") if t.is_floating_point() else 85)

    with mock.patch.object(torch, "empty", filled):
        yield


class HostDevice(ThreadedDevice):
    """A device on which kernels run as fibers of one thread. seed: of the order of the fibers.
    skipped: a line of the kernel at whose barrier nobody waits. dropped: a word of the exchange that does not arrive."""

    def __init__(self, seed: int = 1, skipped: int = 0, dropped: int = -1, looks: int = 1 << 22) -> None:
        self.seed, self.skipped, self.dropped, self.looks = seed, skipped, dropped, looks
        super().__init__()
        self.built: list[CudaKernel] = []

    def bind(self, kernel: CudaKernel) -> Callable[..., None]:
        """In the place of cuda_launch.bind."""
        self.built.append(kernel)
        path = build(kernel, "recurrent.so", "-shared", "-fPIC", looks=self.looks)
        return launcher(kernel, path, self.seed, self.skipped, self.dropped, streams=False)

    def close(self) -> None:
        for control in self.controls:
            control[0] = 1
        for thread in self.threads:  # those of a kernel that was made wrong may wait for each other for ever
            thread.join(1 if self.skipped or self.dropped else 10)


def in_place_of_a_gpu(
    monkeypatch: pytest.MonkeyPatch,
    kernel: str,
    module: Any,
    chooser: str,
    layout_of: Callable[[Any], Callable[..., Any]],
) -> Iterator[Callable[..., HostDevice]]:
    """Puts a device in the place of the GPU, and of persistent kernels this one alone, with the layout of a case.

    module, chooser: where and by which name it chooses its layout. layout_of: what does that, by case.
    """
    made: list[HostDevice] = []
    monkeypatch.setattr(cuda_persistent, "_seats", [])  # a kernel that is to go wrong may not end

    def put(case: Any, **keywords: Any) -> HostDevice:
        device = HostDevice(**keywords)
        made.append(device)
        monkeypatch.setattr(persistent, "persistent_device", lambda: device)
        monkeypatch.setattr(persistent, "TIMEOUT_NS", 20_000_000_000)
        monkeypatch.setattr(cuda_launch, "bind", device.bind)
        monkeypatch.setattr(cuda_launch, "unavailable", lambda kernel: None)
        monkeypatch.setattr(cuda_launch, "has_room", lambda kernel: True)
        monkeypatch.setattr(module, chooser, layout_of(case))
        return device

    with persistent_choice.only(kernel):
        yield put
    for device in made:
        device.close()
