"""A card that a class plays, under the real code around CUDA: what waits for what, and nothing of what is computed.

Its rules are those that hang a process on a real card. Loading code, `torch.cuda.synchronize()`, freeing memory and a capture by
`torch.cuda.graph` wait for the whole device; while a persistent kernel runs they would never return, and raise `Hang` here. A
kernel behind another one in its stream, or more blocks than there are multiprocessors, does not start.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from rtaccel.backends import cuda_driver
from rtaccel.kernels._gpu import cubin_launch, cuda_launch, triton_launch
from rtaccel.kernels._gpu.cubin_store import Cubin
from rtaccel.runtime.gpu import persistent_device
from rtaccel.runtime.gpu.persistent_run import END
from rtaccel.runtime.gpu.persistent_stream import SAVE


class Hang(BaseException):
    """What the process did would not return on a card. No `except Exception` catches it."""


class Resident:
    """A persistent kernel as a thread: it answers every message with zeros, until it is told to end.

    stubborn: it does not look at the abort word. fault: what a query of its stream raises from then on.
    """

    def __init__(self, card: FakeCard, stream: FakeStream, blocks: int, given: dict[str, Any]) -> None:
        self.card, self.stream, self.blocks, self.stubborn = card, stream, blocks, card.stubborn
        self.fault: Exception | None = None
        self._requests, self._replies, self._control = (given[f"{n}_ptr"] for n in ("request", "reply", "control"))
        self._past = given.get("past_ptr")
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def _run(self) -> None:
        words, answers, number = self._requests.numel() // 2, self._replies.numel() // 2, 0
        self._control[1] = 1
        while not self.card.over:
            number += 1
            message = self._requests[(number & 1) * words :][:words]
            while not bool((message >> 32 == number).all()):
                if self.card.over or (not self.stubborn and int(self._control[0])):
                    self._control[1] = 2
                    return
                self._control[2] += 1
                time.sleep(0.0002)
            if int(message[-1]) & END:
                self._control[1] = 2
                return
            if self._past is not None and int(message[-1]) & SAVE:
                self._past.fill_(number << 32)
            self._replies[(number & 1) * answers :][:answers] = number << 32


class FakeStream:
    def __init__(self, card: FakeCard, raw: int, name: str) -> None:
        self.card, self.cuda_stream, self.name = card, raw, name
        self.stream_id = 3  # torch numbers its own; somebody else's has its address
        self.gone = False

    def query(self) -> bool:
        mine = [kernel for kernel in self.card.kernels if kernel.stream is self]
        for kernel in mine:
            if kernel.fault is not None:
                raise kernel.fault
        return not any(kernel.alive for kernel in mine)

    def synchronize(self) -> None:
        if not self.query():
            raise Hang(f"{self.name} is waited for, with a persistent kernel in it")

    def wait_stream(self, other: FakeStream) -> None:
        if other.gone:
            raise RuntimeError("CUDA error: invalid resource handle")
        if self is not other:
            self.card.log.append(f"{self.name} waits for {other.name}")

    def wait_event(self, event: FakeEvent) -> None:
        self.card.log.append(f"{self.name} waits for what {event.of} was given")


class FakeEvent:
    of = ""

    def record(self, stream: FakeStream) -> None:
        self.of = stream.name


class FakeCard:
    """multiprocessors, eager (CUDA_MODULE_LOADING) and what goes wrong: stubborn kernels, launches that do not return (`stuck`),
    `launch_error`. log: what was done in order. over: at the end of a test."""

    def __init__(self, multiprocessors: int = 132, eager: bool = False) -> None:
        self.multiprocessors, self.eager, self.clusters = multiprocessors, eager, 16
        self.stubborn = self.stuck = self.over = self.capturing = False
        self.launch_error: Exception | None = None
        self.loaded: list[str] = []
        self.kernels: list[Resident] = []
        self.log: list[str] = []
        self.default = FakeStream(self, 0, "default")
        self.streams: dict[int, FakeStream] = {0: self.default}
        self._current = threading.local()

    # -- what the device does ------------------------------------------------------------------------------------

    @property
    def running(self) -> list[Resident]:
        return [kernel for kernel in self.kernels if kernel.alive]

    def wait(self, what: str) -> None:
        if self.running:
            raise Hang(f"{what} waits for the device, where a persistent kernel runs")

    def load(self, name: str) -> None:
        self.wait(f"loading {name}")
        self.loaded.append(name)
        self.log.append(f"load {name}")

    def hang(self) -> None:
        """Does not return before the end of the test."""
        while not self.over:
            time.sleep(0.01)
        raise Hang("the test is over")

    def launch(self, name: str, grid: tuple[int, ...], given: dict[str, Any]) -> None:
        if name not in self.loaded:
            self.load(name)
        if self.launch_error is not None:
            raise self.launch_error
        if self.stuck:
            self.hang()
        self.log.append(f"launch {name} on {self.current().name}")
        if "control_ptr" not in given:
            return
        if sum(kernel.blocks for kernel in self.running) + grid[0] > self.multiprocessors:
            raise Hang(f"{name} waits for multiprocessors that persistent kernels have")
        self.kernels.append(Resident(self, self.current(), grid[0], given))

    def current(self) -> FakeStream:
        return getattr(self._current, "stream", self.default)

    def stream(self, name: str) -> FakeStream:
        made = FakeStream(self, 100 + len(self.streams), name)
        self.streams[made.cuda_stream] = made
        return made

    @contextmanager
    def on(self, stream: FakeStream) -> Iterator[None]:
        before = self.current()
        self._current.stream = stream
        try:
            yield
        finally:
            self._current.stream = before

    # -- the driver (rtaccel.backends.cuda_driver.Driver) -----------------------------------------------------------

    def attribute(self, attribute: int, device: int) -> int:
        return {
            cuda_driver.KERNEL_EXEC_TIMEOUT: 0, cuda_driver.CAN_MAP_HOST_MEMORY: 1,
            cuda_driver.MULTIPROCESSORS: self.multiprocessors,
        }[attribute]  # fmt: skip

    def loads_eagerly(self) -> bool:
        return self.eager

    def new_stream(self) -> int:
        return self.stream(f"own {len(self.streams)}").cuda_stream

    # -- cuda-core ---------------------------------------------------------------------------------------------------

    def core(self) -> Any:
        def from_cubin(code: bytes, name: str) -> Any:
            self.load(name)
            count = int(code)
            return SimpleNamespace(get_kernel=lambda entry: SimpleNamespace(num_arguments=count, handle=name))

        return SimpleNamespace(
            Device=lambda index: SimpleNamespace(set_current=lambda: None),
            ObjectCode=SimpleNamespace(from_cubin=from_cubin),
        )

    def bindings(self) -> Any:
        good, too_large = SimpleNamespace(name="CUDA_SUCCESS"), SimpleNamespace(name="CUDA_ERROR_INVALID_CLUSTER_SIZE")

        def clusters(handle: Any, config: Any) -> tuple[Any, int]:
            self.log.append(f"clusters of {config.gridDimX}")
            if self.clusters < 0:
                return SimpleNamespace(name="CUDA_ERROR_UNKNOWN"), 0
            return (good, self.clusters) if self.clusters else (too_large, 0)

        return SimpleNamespace(
            CUresult=SimpleNamespace(CUDA_SUCCESS=good, CUDA_ERROR_INVALID_CLUSTER_SIZE=too_large),
            CUfunction_attribute=SimpleNamespace(
                CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES=8,
                CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED=14,
            ),
            CUlaunchConfig=SimpleNamespace,
            cuOccupancyMaxActiveClusters=clusters,
            cuKernelGetFunction=lambda handle: (good, handle),
            cuFuncLoad=lambda handle: (self.log.append(f"ready {handle}"), (good,))[1],
            cuFuncSetAttribute=lambda handle, attribute, size: (good,),
        )

    def compiled(self, kernel: Any, capability: int) -> Cubin:
        """In the place of NVRTC: "code" says how many parameters the function has."""
        about = (kernel.parameters, kernel.num_warps, kernel.shared_bytes, 0, 0, kernel.cooperative, "a test")
        code = str(len(kernel.parameters) + 2).encode()
        return Cubin(kernel.key, capability, kernel.name, kernel.entry, *about, code, kernel.cluster)

    # -- in its place ----------------------------------------------------------------------------------------------

    def install(self, patch: pytest.MonkeyPatch) -> None:
        card = self

        def launch_cubin(self: cubin_launch.Loaded, grid: tuple[int, ...], **given: Any) -> None:
            cubin_launch.pack(self._cubin, given)
            card.launch(self._cubin.name, grid, given)

        class Jit(triton_launch._Jit):
            def __init__(self, spec: Any) -> None:
                super().__init__(spec)
                self._kernel = FakeJit(card, spec.name)

        for name, stand_in in (
            ("is_available", lambda: True), ("current_device", lambda: 0), ("set_device", lambda index: None),
            ("get_device_name", lambda *_: "NVIDIA Fake"), ("get_device_capability", lambda *_: (9, 0)),
            ("synchronize", lambda *_: card.wait("torch.cuda.synchronize()")),
            ("empty_cache", lambda: card.wait("torch.cuda.empty_cache()")), ("stream", card.on),
            ("Stream", lambda *_, **__: card.stream("pool")), ("ExternalStream", lambda raw: card.streams[raw]),
            ("current_stream", card.current), ("CUDAGraph", lambda: FakeGraph(card)),
            ("is_current_stream_capturing", lambda: card.capturing), ("mem_get_info", lambda: (1 << 30, 2 << 30)),
            ("get_device_properties", lambda index: SimpleNamespace(
                major=9, minor=0, multi_processor_count=card.multiprocessors)),
        ):  # fmt: skip
            patch.setattr(torch.cuda, name, stand_in)
        patch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda i: card.current().cuda_stream, raising=False)
        patch.setattr(Tensor, "pin_memory", lambda self: self)
        patch.setattr(cuda_driver, "driver", lambda: card)
        patch.setattr(persistent_device.CudaPersistent, "memory", "cpu")
        patch.setattr(cubin_launch, "unavailable", lambda: None)
        patch.setattr(cubin_launch, "_core", card.core)
        patch.setattr(cubin_launch, "_bindings", card.bindings)
        patch.setattr(cubin_launch, "_loaded", {})
        patch.setattr(cubin_launch.Loaded, "__call__", launch_cubin)
        patch.setattr(cuda_launch, "unavailable", lambda kernel: None)
        patch.setattr(cuda_launch, "compile_cubin", card.compiled)
        patch.setattr(cuda_launch, "_in_process", {})
        patch.setattr(triton_launch, "_Jit", Jit)
        patch.setattr(triton_launch, "built_ahead", lambda key: None)


class FakeGraph:
    """As much of torch.cuda.CUDAGraph as a capture uses. A replay launches what was captured on the current stream."""

    def __init__(self, card: FakeCard) -> None:
        self._card = card

    def capture_begin(self, **_: Any) -> None:
        self._card.capturing = True
        self._card.log.append(f"capture on {self._card.current().name}")

    def capture_end(self) -> None:
        self._card.capturing = False
        self._card.log.append("captured")

    def replay(self) -> None:
        self._card.log.append(f"replay on {self._card.current().name}")


class FakeJit:
    """A triton.jit function: `warmup` compiles, the handles load, a launch of what is not loaded loads it."""

    def __init__(self, card: FakeCard, name: str) -> None:
        self._card, self._name = card, name
        self.compiled = SimpleNamespace(module=None, _init_handles=self._init)

    def _init(self) -> None:
        if self._name not in self._card.loaded:
            self._card.load(self._name)

    def warmup(self, *, grid: tuple[int, ...], **_: Any) -> Any:
        self.compiled.module = object() if self._name in self._card.loaded else None
        return self.compiled

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return lambda **given: self._card.launch(self._name, grid, given)
