"""CUDA timing modes: refused with the reason without a device, and their order of calls on a device that only keeps a log."""

from __future__ import annotations

import warnings
from contextlib import contextmanager

import numpy as np
import pytest
import torch

import rtaccel as rt
from rtaccel.core.errors import BackendUnavailable, FormatError
from rtaccel.measure.timing import gpu


class FakeCuda:
    """torch.cuda as far as `gpu` uses it. Work is what `launch` adds; capturing keeps it for replays."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.capturing: list[str] | None = None
        cuda = self

        class Stream:
            def __init__(self, name: str = "side") -> None:
                self.name = name

            def synchronize(self) -> None:
                cuda.log.append(f"sync {self.name}")

            def wait_stream(self, other: Stream) -> None:
                cuda.log.append(f"{self.name} waits for {other.name}")

        class Event:
            def __init__(self, enable_timing: bool) -> None:
                assert enable_timing

            def record(self, stream: Stream) -> None:
                cuda.log.append("event")

            def elapsed_time(self, end: Event) -> float:
                return 0.004  # ms

        class CUDAGraph:
            def __init__(self) -> None:
                self.work: list[str] = []

            def replay(self) -> None:
                cuda.log.append(f"replay of {len(self.work)}")

        self.Stream, self.Event, self.CUDAGraph = Stream, Event, CUDAGraph
        self.main = Stream("main")

    def current_stream(self) -> object:
        return self.main

    @contextmanager
    def stream(self, stream: object):
        yield

    @contextmanager
    def graph(self, graph: object):
        self.capturing = []
        yield
        graph.work = self.capturing  # type: ignore[attr-defined]
        self.capturing = None
        if not graph.work:  # type: ignore[attr-defined]
            text = "The CUDA Graph is empty. This usually means that the graph was attempted to be captured on wrong device"
            warnings.warn(text, UserWarning, stacklevel=1)

    def launch(self, name: str = "kernel") -> None:
        (self.log if self.capturing is None else self.capturing).append(name)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    fake = FakeCuda()
    monkeypatch.setattr(gpu, "_cuda", lambda mode: fake)
    return fake


@pytest.mark.parametrize("mode", ["stream", "graph", "persistent"])
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_device_the_reason_is_said(mode: str) -> None:
    with pytest.raises(BackendUnavailable, match=rf"mode='{mode}'.*torch is built.*CUDA"):
        gpu.prepare(len, ([],), mode)


def test_another_mode_is_refused() -> None:
    with pytest.raises(FormatError, match="stream, graph, persistent"):
        gpu.prepare(len, ([],), "tpu")
    assert gpu.prepare(len, ([1, 2],), "cpu").device_us is None


def test_on_a_stream_a_sample_ends_when_the_host_can_see_the_answer(cuda: FakeCuda) -> None:
    prepared = gpu.prepare(cuda.launch, ("mine",), "stream")
    assert cuda.log == []
    prepared.call()
    assert cuda.log == ["mine", "sync main"]
    cuda.log.clear()
    assert prepared.device_us is not None
    alone = prepared.device_us()
    assert alone.dtype == np.float32
    assert alone[0] == pytest.approx(4)
    assert cuda.log[:4] == ["event", "mine", "event", "sync main"]


def test_a_graph_is_captured_once_after_warming_up_on_a_side_stream(cuda: FakeCuda) -> None:
    prepared = gpu.prepare(cuda.launch, (), "graph")
    assert cuda.log == ["side waits for main", *["kernel"] * 3, "main waits for side"]
    cuda.log.clear()
    prepared.call()
    prepared.call()
    assert cuda.log == ["replay of 1", "sync main"] * 2


def test_an_empty_graph_is_refused_and_other_warnings_go_on(cuda: FakeCuda) -> None:
    with pytest.raises(FormatError, match="without a single node"):
        gpu.prepare(lambda: None, (), "graph")

    def warns() -> None:
        warnings.warn("mine", UserWarning, stacklevel=1)
        cuda.launch()

    with pytest.warns(UserWarning, match="mine"):
        gpu.prepare(warns, (), "graph")


def test_a_persistent_kernel_is_neither_submitted_to_nor_synchronised(cuda: FakeCuda) -> None:
    prepared = gpu.prepare(lambda: cuda.log.append("mailbox"), (), "persistent")
    prepared.call()
    assert cuda.log == ["mailbox"]
    assert prepared.device_us is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_device() -> None:
    x = torch.ones(1 << 20, device="cuda")
    for mode in ("stream", "graph"):
        prepared = gpu.prepare(torch.sin, (x,), mode)
        found = rt.measure(prepared.call, samples=700, budget=rt.Budget(p99_us=1e6))
        assert prepared.device_us is not None
        alone = np.median(prepared.device_us())
        assert 1 < alone < found.p50_us
    with pytest.raises(FormatError, match="without a single node"):
        gpu.prepare(lambda: None, (), "graph")
