"""What graph replay needs of a GPU, and nothing more: so its logic can be tested where there is none.

`TorchCuda` is the real thing, on torch's own streams, allocator and graphs. The tests bring a fake device that says so.
"""

from __future__ import annotations

import contextlib
import gc
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor

from rtaccel.backends.cuda_persistent import refuse_capture
from rtaccel.backends.cuda_streams import Order, StreamOrder
from rtaccel.core.errors import UnsupportedProblem

WARM_UPS = 3
"""Runs before a capture: Triton compiles and loads its modules, cuBLAS makes its workspace, the allocator its blocks."""

Work = Callable[[], "tuple[Tensor, ...]"]


class Graph(Protocol):
    """A captured call. outputs: the tensors that each replay writes, in memory of the graph's own."""

    outputs: tuple[Tensor, ...]

    def replay(self) -> None:
        """Launches on the caller's current stream; does not wait."""


class DeviceLayer(Protocol):
    device: str

    def capture(self, work: Work) -> Graph:
        """Runs `work` until it is warm, then captures it. Raises UnsupportedProblem for a graph without a node."""

    def synchronize(self) -> None:
        """Waits for the caller's current stream."""

    def is_host(self, tensor: Tensor) -> bool:
        """Whether it lies in memory of the CPU, which kernels do not read."""

    def is_pinned(self, tensor: Tensor) -> bool: ...

    def order(self) -> Order:
        """Of the calls of one plan, on whatever streams they are made."""

    def free_text(self) -> str:
        """How much memory is left, for an error."""


@contextmanager
def without_gc() -> Iterator[None]:
    """No garbage collection inside: a collected kernel or tensor would make CUDA calls that a capture forbids."""
    was = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


@contextmanager
def _only_what_can_be_captured() -> Iterator[None]:
    """A call that waits for the device, or looks at numbers, ends a capture; said in those words."""
    try:
        yield
    except RuntimeError as error:
        if "captur" not in str(error).lower():
            raise
        raise UnsupportedProblem(
            "graph", str(error).splitlines()[0], "calls that only launch kernels", "Compile with mode='eager'."
        ) from error


class _TorchGraph:
    def __init__(self, graph: torch.cuda.CUDAGraph, outputs: tuple[Tensor, ...]) -> None:
        self._graph, self.outputs = graph, outputs
        self.replay = graph.replay


def _abandon(graph: torch.cuda.CUDAGraph) -> None:
    """Ends a capture that failed, so that its stream can be used again. What CUDA says of it was said before."""
    with contextlib.suppress(RuntimeError):
        graph.capture_end()


class TorchCuda:
    """CUDA by way of torch. Graphs are captured on a stream of their own and replayed on the current one."""

    device = "cuda"

    def capture(self, work: Work) -> Graph:
        """By CUDAGraph itself: `torch.cuda.graph` first waits for the whole device, and a persistent kernel does not end."""
        refuse_capture("graph")
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                work()
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with without_gc(), warnings.catch_warnings(record=True) as said, _only_what_can_be_captured():
            warnings.simplefilter("always")
            # thread_local: other threads may go on allocating and copying while this one captures.
            with torch.cuda.stream(stream):
                graph.capture_begin(capture_error_mode="thread_local")
                try:
                    outputs = work()
                except BaseException:
                    _abandon(graph)
                    raise
                graph.capture_end()
        if any("graph is empty" in str(w.message).lower() for w in said):
            raise UnsupportedProblem(
                "graph",
                "a capture without a single kernel",
                "kernels launched on the stream that captures",
                "A kernel went to another stream: none may keep one from an earlier launch.",
            )
        torch.cuda.current_stream().wait_stream(stream)
        return _TorchGraph(graph, outputs)

    def order(self) -> Order:
        return StreamOrder()

    def synchronize(self) -> None:
        torch.cuda.current_stream().synchronize()

    def is_host(self, tensor: Tensor) -> bool:
        return tensor.device.type == "cpu"

    def is_pinned(self, tensor: Tensor) -> bool:
        return tensor.is_pinned()

    def free_text(self) -> str:
        try:
            free, total = torch.cuda.mem_get_info()
        except RuntimeError:
            return ""
        return f" ({free >> 20} of {total >> 20} MiB are free)"


def device_layer(device: str) -> DeviceLayer:
    """The layer of a torch device that has graphs."""
    if device != "cuda":
        raise UnsupportedProblem("graph", f"device {device!r}", "'cuda'", "Graphs are for GPUs.")
    return TorchCuda()
