"""Kernels of the user's in a model: on the CPU by his function, on a GPU in the graph of the model, on its stream. The card and
CuPy are stand-ins here; CuPy itself is in tests/runtime/test_interop.py."""

from __future__ import annotations

import itertools
import sys
import warnings
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt
from rtaccel.backends.cuda_streams import NO_ORDER, Order
from rtaccel.core.errors import BackendUnavailable, FallbackWarning, FormatError, ShapeError, UnsupportedProblem
from rtaccel.nn.raw_kernel import RawKernel, raw_kernel
from rtaccel.runtime.compiled import CompiledModel
from rtaccel.runtime.gpu import device as cuda_device
from rtaccel.runtime.gpu.device import Graph, Work
from rtaccel.runtime.options import Options
from rtaccel.runtime.steps import planned
from tests.gpu.with_cupy.fake_cupy import FakeCupy, floats
from tests.support.fake_cuda import FakeCard
from tests.support.fake_device import FakeDevice

ROWS = 3
_numbers = itertools.count()


def name() -> str:
    return f"tests::raw_{next(_numbers)}"


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> FakeCupy:
    made = FakeCupy()
    monkeypatch.setitem(sys.modules, "cupy", made)  # type: ignore[arg-type]
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: SimpleNamespace(cuda_stream=0))
    return made


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> FakeCard:
    made = FakeCard()
    made.install(monkeypatch)
    return made


class Net(nn.Module):
    def __init__(self, own: Any) -> None:
        super().__init__()
        self.first, self.last, self.own = nn.Linear(12, 24), nn.Linear(24, 5), own

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.own(torch.relu(self.first(x))))


def halving(cupy: FakeCupy) -> RawKernel:
    """A kernel that halves, launched on tensors of the CPU as on a card: its function for the CPU is the launch."""

    def compute(grid: Any, block: Any, x: int, y: int, by: float, n: int) -> None:
        assert grid == (-(-n // 64),) and block == (64,)
        floats(y, n)[:] = np.float32(by) * floats(x, n)

    made: list[RawKernel] = []
    made.append(
        raw_kernel(
            name(), cupy.kernel("halve", compute), outputs=torch.empty_like, cpu=lambda x: made[0].on_gpu(x),
            launch=lambda x, y: ((-(-x.numel() // 64),), (64,), (x, y, np.float32(0.5), np.int32(x.numel()))),
        )
    )  # fmt: skip
    return made[0]


def plain(own: RawKernel) -> Net:
    return Net(own).eval()


def graphed(net: Net) -> CompiledModel:
    eager = rt.compile(net, torch.randn(ROWS, 12), backend="portable", verify=False)
    assert isinstance(eager, CompiledModel)
    return CompiledModel(
        eager._program, Options(ROWS, "cpu", "portable", 0, "Net", mode="graph"), eager._argument_names
    )


def expected(net: Net, x: Tensor) -> Tensor:
    with torch.no_grad():
        return net.last(0.5 * torch.relu(net.first(x)))


def test_on_the_cpu_it_is_a_stage_of_its_own() -> None:
    """Not a call that falls back to PyTorch: no warning, and `strict` takes it."""
    half = raw_kernel(name(), None, outputs=torch.empty_like, cpu=lambda x: 0.5 * x, launch=lambda x, y: None)
    net, x = plain(half), torch.randn(ROWS, 12)
    with warnings.catch_warnings():
        warnings.simplefilter("error", FallbackWarning)
        fast = rt.compile(net, x, strict=True)
    text = fast.explain()
    assert "3 of 3 stages native" in text and half.name in text and "by its function for the CPU" in text
    for rows in (1, ROWS, 9):
        given = torch.randn(rows, 12)
        torch.testing.assert_close(fast(given), expected(net, given))
    y = torch.empty(ROWS, 5)
    step = fast.bind(x, out=y)
    x.normal_()
    step()
    torch.testing.assert_close(y, expected(net, x))


def test_the_model_is_one_graph(cupy: FakeCupy, monkeypatch: pytest.MonkeyPatch) -> None:
    device = FakeDevice()
    monkeypatch.setattr(planned, "device_layer", lambda name: device)
    net = plain(halving(cupy))
    fast = graphed(net)
    assert device.captures == 1
    assert f"one CUDA graph for {ROWS} rows" in fast.explain(measure=False)
    x, y = torch.randn(ROWS, 12), torch.empty(ROWS, 5)
    for count in range(1, 4):
        x.normal_()
        before = device.replays
        torch.testing.assert_close(fast(x), expected(net, x))
        assert device.replays == before + 1, count
    step = fast.bind(x, out=y)
    assert device.captures == 2
    fast.seal()
    x.normal_()
    step()
    torch.testing.assert_close(y, expected(net, x))
    before = device.replays
    fast.run(x, out=y)
    assert device.replays == before + 1
    with pytest.raises(ShapeError, match="sealed"):
        fast.run(torch.randn(ROWS + 1, 12), out=torch.empty(ROWS + 1, 5))


def test_other_batches_and_other_weights(cupy: FakeCupy, monkeypatch: pytest.MonkeyPatch) -> None:
    device = FakeDevice()
    monkeypatch.setattr(planned, "device_layer", lambda name: device)
    own = halving(cupy)
    net, other = plain(own), plain(own)
    fast = graphed(net)
    before, x = device.replays, torch.randn(7, 12)
    torch.testing.assert_close(fast(x), expected(net, x))
    assert device.replays == before  # another batch: kernel by kernel
    with pytest.raises(UnsupportedProblem, match="load_state_dict"):
        fast.swap(graphed(other).state_dict())
    captures = device.captures
    fast.load_state_dict(graphed(other).state_dict())
    assert device.captures > captures
    x = torch.randn(ROWS, 12)
    torch.testing.assert_close(fast(x), expected(other, x))
    with pytest.raises(ShapeError, match=r"\[3, 11\]"):
        fast(torch.randn(ROWS, 11))
    torch.testing.assert_close(fast(torch.randn(12, ROWS).T), fast(torch.randn(12, ROWS).T), rtol=9, atol=99)


def test_a_call_that_falls_back_to_pytorch_is_in_no_graph(cupy: FakeCupy, monkeypatch: pytest.MonkeyPatch) -> None:
    device = FakeDevice()
    monkeypatch.setattr(planned, "device_layer", lambda name: device)

    class Both(Net):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + torch.linalg.eigh(x[:, :4].view(-1, 2, 2)).eigenvectors[:, :1, 0]

    with pytest.warns(FallbackWarning, match="eigh"):
        fast = graphed(Both(halving(cupy)).eval())
    assert device.captures == 0 and "no CUDA graph" in fast.explain(measure=False)


def test_a_capture_has_its_launch_on_the_stream_that_captures(
    cupy: FakeCupy, card: FakeCard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the code that captures on a card, on one that a class plays: one graph, and nothing waits within it."""
    monkeypatch.setattr(cupy, "log", card.log)

    class CapturingOnCpu(cuda_device.TorchCuda):
        device = "cpu"

        def capture(self, work: Work) -> Graph:
            graph = super().capture(work)
            outputs = graph.outputs

            def replay() -> None:
                for kept, result in zip(outputs, work()):
                    kept.copy_(result)

            graph.replay = replay  # type: ignore[method-assign]
            return graph

        def order(self) -> Order:
            return NO_ORDER  # a replay makes the calls again here, inside

        def synchronize(self) -> None:
            pass

        def is_host(self, tensor: Tensor) -> bool:
            return False

    monkeypatch.setattr(planned, "device_layer", lambda name: CapturingOnCpu())
    net = plain(halving(cupy))
    fast = graphed(net)
    captures = [i for i, line in enumerate(card.log) if line.startswith("capture on")]
    assert len(captures) == 1
    pool = next(raw for raw, stream in card.streams.items() if stream.name == "pool")
    inside = card.log[captures[0] + 1 : card.log.index("captured")]
    assert inside == [f"halve on {pool}"]
    assert not any("waits" in line and "for" not in line for line in card.log)
    x = torch.randn(ROWS, 12)
    torch.testing.assert_close(fast(x), expected(net, x))


def test_several_results(cupy: FakeCupy) -> None:
    def compute(grid: Any, block: Any, x: int, low: int, high: int, shared: int) -> None:
        assert shared == 5
        floats(low, 4)[:], floats(high, 4)[:] = np.minimum(floats(x, 4), 0), np.maximum(floats(x, 4), 0)

    split = raw_kernel(
        name(), cupy.kernel("split", compute), results=2,
        outputs=lambda x: (torch.empty_like(x), torch.empty_like(x)), cpu=lambda x: (x.clamp(max=0), x.clamp(min=0)),
        launch=lambda x, low, high: ((1,), (32,), (x, low, high, np.int64(5)), 256),
    )  # fmt: skip

    class Parts(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            low, high = split(x)
            return high - 2 * low

    x = torch.tensor([[-1.0, 2.0, 0.0, -4.0]])
    fast = rt.compile(Parts().eval(), x, strict=True)
    assert torch.equal(fast(x), torch.tensor([[2.0, 2.0, 0.0, 8.0]]))
    on_card = split.on_gpu(x)
    assert torch.equal(on_card[0], x.clamp(max=0)) and torch.equal(on_card[1], x.clamp(min=0))


def test_memory_that_is_not_aligned(cupy: FakeCupy) -> None:
    half = halving(cupy)
    x = torch.randn(65)
    with pytest.raises(ShapeError, match="16 divides"):
        half.on_gpu(x[1:])
    assert torch.equal(half.on_gpu(x[1:].clone()), 0.5 * x[1:])
    assert half.on_gpu(torch.empty(0, 4)).shape == (0, 4)  # nothing to launch


def test_strided_inputs_are_made_dense(cupy: FakeCupy) -> None:
    x = torch.randn(4, 6).T
    assert torch.equal(halving(cupy).on_gpu(x), 0.5 * x)


def test_without_cupy(monkeypatch: pytest.MonkeyPatch, cupy: FakeCupy) -> None:
    half = halving(cupy)
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(BackendUnavailable, match="cupy"):
        half.on_gpu(torch.randn(4))


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"launch": lambda x, y: ((1,), (32,))}, "launch= that gives"),
        ({"launch": lambda x, y: (1, 32, (x, y))}, "launch= that gives"),
        ({"launch": lambda x, y: ((1,), (32.0,), (x, y))}, "launch= that gives"),
        ({"outputs": lambda x: (x, x)}, "outputs= that gives"),
        ({"outputs": lambda x: None}, "outputs= that gives"),
    ],
)
def test_functions_that_give_something_else(given: dict[str, Any], match: str, cupy: FakeCupy) -> None:
    usual = {"outputs": torch.empty_like, "launch": lambda x, y: ((1,), (32,), (x, y)), "cpu": lambda x: x}
    own = raw_kernel(name(), cupy.kernel("none", lambda *_: None), **{**usual, **given})
    with pytest.raises(FormatError, match=match):
        own.on_gpu(torch.randn(4))


def test_a_function_for_the_cpu_that_is_not_what_was_declared() -> None:
    own = raw_kernel(name(), None, outputs=torch.empty_like, launch=lambda x, y: None, cpu=lambda x: x[:, :2])
    with pytest.raises(FormatError, match=r"float32\[3, 2\].*float32\[3, 4\]"):
        own(torch.randn(3, 4))


def test_a_result_that_is_the_input_is_copied() -> None:
    own = raw_kernel(name(), None, outputs=torch.empty_like, launch=lambda x, y: None, cpu=lambda x: x)
    x = torch.randn(3)
    assert own(x).data_ptr() != x.data_ptr() and torch.equal(own(x), x)


def test_definitions_that_are_refused() -> None:
    usual: dict[str, Any] = {"outputs": torch.empty_like, "launch": lambda x, y: None, "cpu": lambda x: x}
    taken = name()
    raw_kernel(taken, None, **usual)
    for given, more in (
        (taken, {}), ("aten::relu", {}), ("mine", {}), ("mine::a b", {}), (name(), {"results": 0}), (name(), {"alignment": 0}),
        (name(), {"cpu": lambda: 1}), (name(), {"cpu": lambda *x: x}), (name(), {"cpu": lambda x, by=2: x}),
    ):  # fmt: skip
        with pytest.raises(FormatError):
            raw_kernel(given, None, **{**usual, **more})
