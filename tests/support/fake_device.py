"""A device that pretends: graphs over CPU tensors, so that the logic around CUDA graphs runs where there is no GPU.

It shows nothing about CUDA. A "graph" here is the call itself, made again at each replay, with its results written to the
addresses of the first time, as a CUDA graph would.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

from torch import Tensor

from rtaccel.backends.cuda_streams import NO_ORDER, Order
from rtaccel.runtime import recipe
from rtaccel.runtime import stream as _stream  # noqa: F401
from rtaccel.runtime.gpu.device import WARM_UPS, Work, without_gc
from rtaccel.runtime.gpu.graph_stream import GraphStream
from rtaccel.runtime.options import Options
from rtaccel.runtime.steps import planned

stream = sys.modules["rtaccel.runtime.stream"]


class FakeGraph:
    def __init__(self, device: FakeDevice, work: Work, outputs: tuple[Tensor, ...]) -> None:
        self._device, self._work, self.outputs = device, work, outputs

    def replay(self) -> None:
        self._device.replays += 1
        self._device.on_replay()
        if self._device.loses_kernels:
            return
        for kept, result in zip(self.outputs, self._work()):
            if kept is not result:
                kept.copy_(result)


class FakeDevice:
    """on_replay: called at every replay, to raise what CUDA would. loses_kernels: replays do nothing. host: addresses of
    tensors that count as host memory, pinned where they are also in `pinned`."""

    device = "cpu"

    def __init__(self) -> None:
        self.replays = self.captures = self.waits = 0
        self.loses_kernels = False
        self.on_replay: Callable[[], None] = lambda: None
        self.host: set[int] = set()
        self.pinned: set[int] = set()

    def capture(self, work: Work) -> FakeGraph:
        for _ in range(WARM_UPS):
            work()
        with without_gc():
            assert not gc.isenabled()
            outputs = work()
        self.captures += 1
        return FakeGraph(self, work, outputs)

    def order(self) -> Order:
        return NO_ORDER

    def synchronize(self) -> None:
        self.waits += 1

    def is_host(self, tensor: Tensor) -> bool:
        return tensor.data_ptr() in self.host

    def is_pinned(self, tensor: Tensor) -> bool:
        return tensor.data_ptr() in self.pinned

    def free_text(self) -> str:
        return " (1 of 2 MiB are free)"


@contextmanager
def streams_in_graphs(backend: str) -> Iterator[FakeDevice]:
    """`rt.stream` inside gives streams in a graph, as with device="cuda" and mode="graph", over CPU tensors."""
    with _in_graphs(backend, stream) as device, mock.patch.object(stream, "_mode", return_value="graph"):
        yield device


@contextmanager
def states_in_graphs(backend: str) -> Iterator[FakeDevice]:
    """`rt.compile` inside gives models with state in a graph, in the same way."""
    with _in_graphs(backend, recipe) as device:
        yield device


@contextmanager
def _in_graphs(backend: str, room: Any) -> Iterator[FakeDevice]:
    """Options of what keeps states, made in a module, are those of a graph."""
    device = FakeDevice()

    def options(*args: Any, **kwargs: Any) -> Options:
        made = Options(*args, **kwargs)
        return made if made.plan_states is None else replace(made, device="cpu", backend=backend, mode="graph")

    with mock.patch.object(planned, "device_layer", return_value=device), mock.patch.object(room, "Options", options):
        yield device


@contextmanager
def no_state_is_written(device: FakeDevice) -> Iterator[None]:
    """While a graph is captured, its replays leave every state as it is."""
    real = GraphStream._captured

    def captured(self: GraphStream, *args: Any) -> Any:
        def forget() -> None:
            self._written = [False] * len(self._written)

        with mock.patch.object(device, "on_replay", forget):
            return real(self, *args)

    with mock.patch.object(GraphStream, "_captured", captured):
        yield
