"""Where a persistent kernel runs: what it asks of a card, how its code is loaded, and how it is started."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from rtaccel.backends import cuda_driver, cuda_persistent, gdr
from rtaccel.backends.cuda_errors import translated
from rtaccel.core import settings
from rtaccel.runtime.gpu.persistent_networks import Network


class Running(Protocol):
    """A kernel that was started."""

    def finished(self) -> bool:
        """Whether it has ended. Raises what CUDA does where it ended by a fault."""


@dataclass(frozen=True)
class Requests:
    """Memory of messages to a kernel: int64 as the host writes it, and as kernels read it. mapped: the card's memory, of
    which the host sees a mapping; None where both are the same memory of the host."""

    host: Tensor
    card: Tensor
    mapped: gdr.Region | None = None

    @classmethod
    def shared(cls, words: Tensor) -> Requests:
        return cls(words, words)

    def clear(self) -> None:
        self.host.zero_()
        if self.mapped is not None:
            int(self.host[-1])  # a read over the link comes behind the stores before it

    def give_back(self) -> None:
        """For others: no kernel looks at it any more."""
        if self.mapped is not None:
            gdr.give_back(self.mapped)


def mapped_requests(words: int) -> Requests:
    """In the card's memory. Raises BackendUnavailable where the host cannot map it."""
    region = gdr.take(8 * words)
    host = torch.frombuffer((ctypes.c_char * (8 * words)).from_address(region.host), dtype=torch.int64)
    return Requests(host, seen_by_kernels(region.card, words), region)


def seen_by_kernels(address: int, words: int) -> Tensor:
    """int64 [words] at an address of the current device."""
    about = {"shape": (words,), "typestr": "<i8", "data": (address, False), "version": 3}
    return torch.as_tensor(type("OfTheCard", (), {"__cuda_array_interface__": about})(), device="cuda")


class PersistentDevice(Protocol):
    """Where a persistent kernel runs. The tests bring a CPU thread that plays one."""

    index: int

    def unsuitable(self) -> str | None:
        """None, or why no kernel may stay on this device."""

    def multiprocessors(self) -> int: ...

    def mailbox(self, words: int) -> Tensor:
        """int64 zeros in memory that both sides see."""

    def requests(self, words: int) -> Requests:
        """The same for messages to a kernel, in the memory that RTACCEL_MAILBOX names."""

    def load(self, network: Network, requests: Tensor, replies: Tensor, control: Tensor) -> Any:
        """Compiles and loads all that a start needs, with the weights on the device; starts nothing. Gives what `start` takes."""

    def start(self, loaded: Any, requests: Tensor, replies: Tensor, control: Tensor) -> Running:
        """Starts the kernel; does not wait for it. Loads and allocates nothing."""

    def copying(self, work: Callable[[], None]) -> None:
        """Makes copies to the device beside a kernel that runs, and waits for them. Allocates and loads nothing."""

    def note(self) -> str:
        """What a user should know of other work beside it, for `explain`; "" where there is nothing."""


class CudaPersistent:
    """The current CUDA device."""

    memory = "cuda"

    def __init__(self) -> None:
        self.index = torch.cuda.current_device()

    def unsuitable(self) -> str | None:
        if cuda_driver.launches_block():
            return f"with {cuda_driver.LAUNCH_BLOCKING} every launch waits for its kernel to end"
        driver, name = cuda_driver.driver(), torch.cuda.get_device_name(self.index)
        if driver.attribute(cuda_driver.KERNEL_EXEC_TIMEOUT, self.index):
            return f"{name} drives a display, and the driver ends kernels that run for seconds"
        if not driver.attribute(cuda_driver.CAN_MAP_HOST_MEMORY, self.index):
            return f"{name} does not see the memory of the host"
        return None

    def multiprocessors(self) -> int:
        return cuda_driver.driver().attribute(cuda_driver.MULTIPROCESSORS, self.index)

    def mailbox(self, words: int) -> Tensor:
        return torch.zeros(words, dtype=torch.int64).pin_memory()

    def requests(self, words: int) -> Requests:
        if settings.mailbox() == "host":
            return Requests.shared(self.mailbox(words))
        return mapped_requests(words)

    def load(self, network: Network, requests: Tensor, replies: Tensor, control: Tensor) -> Any:
        with translated("persistent"):
            launch = network.prepared(self.memory)
            stream = torch.cuda.ExternalStream(cuda_driver.driver().new_stream())
            with torch.cuda.stream(stream):
                launch.load(requests, replies, control)
            torch.cuda.current_stream().synchronize()  # the weights are there
        return launch, stream

    def start(self, loaded: Any, requests: Tensor, replies: Tensor, control: Tensor) -> Running:
        launch, stream = loaded
        with translated("persistent"), torch.cuda.stream(stream):
            launch(requests, replies, control)
        return _OnStream(stream)

    def copying(self, work: Callable[[], None]) -> None:
        def copies() -> None:
            work()
            torch.cuda.current_stream().synchronize()

        with translated("swap"):
            cuda_persistent.within(cuda_persistent.LOAD_S, "swap", "copying weights to the device", copies)

    def note(self) -> str:
        mode = "EAGER" if cuda_driver.driver().loads_eagerly() else "LAZY"
        return (
            f"{cuda_driver.MODULE_LOADING}={mode}, {cuda_driver.connections()} hardware queues; while it runs, "
            "torch.cuda.synchronize() and the loading of code wait for its end"
        )


class _OnStream:
    def __init__(self, stream: torch.cuda.Stream) -> None:
        self._stream = stream

    def finished(self) -> bool:
        return bool(self._stream.query())


def persistent_device() -> PersistentDevice:
    return CudaPersistent()
