"""Graph replay: its logic on a fake device, the real device's capture step by step on stand-ins, and on a GPU where
there is one."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt
from rtaccel.backends import cuda_errors, get_backend
from rtaccel.backends.cuda_streams import StreamOrder
from rtaccel.core.errors import BackendUnavailable, ShapeError, UnsupportedProblem
from rtaccel.runtime.compiled import CompiledModel
from rtaccel.runtime.gpu import device as cuda_device
from rtaccel.runtime.gpu.graph import GraphPlan
from rtaccel.runtime.options import Options
from rtaccel.runtime.steps import planned
from tests.support.fake_cuda import FakeCard, FakeEvent, FakeGraph
from tests.support.fake_device import FakeDevice

ROWS = 3


@pytest.fixture(autouse=True)
def alive() -> Iterator[None]:
    yield
    cuda_errors.revive()


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 24), nn.GELU(), nn.Linear(24, 5)).eval()


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> FakeDevice:
    made = FakeDevice()
    monkeypatch.setattr(planned, "device_layer", lambda name: made)
    return made


def graphed(model: nn.Module, x: Any, **options: Any) -> tuple[CompiledModel, CompiledModel]:
    """(the model behind a graph of the fake device, the same launched kernel by kernel)."""
    args = x if isinstance(x, tuple) else (x,)
    eager = rt.compile(model, args, backend="portable", scheme="w8a8", calibration=[torch.randn(64, 12)], **options)
    assert isinstance(eager, CompiledModel)
    o = Options(ROWS, "cpu", "portable", 0, "Net", mode="graph")
    return CompiledModel(eager._program, o, eager._argument_names), eager


def plan_of(model: CompiledModel) -> GraphPlan:
    (plan,) = model._executor.graphs
    return plan


def test_replays_give_what_the_kernels_give(device: FakeDevice) -> None:
    fast, eager = graphed(network(), torch.randn(ROWS, 12))
    assert device.captures == 1
    earlier: list[tuple[Tensor, Tensor]] = []
    for _ in range(4):
        x = torch.randn(ROWS, 12)
        before = device.replays
        y = fast(x)
        assert device.replays == before + 1
        torch.testing.assert_close(y, eager(x), rtol=0, atol=0)
        earlier.append((y, y.clone()))
    for y, kept in earlier:  # results are fresh tensors, which no later replay writes
        torch.testing.assert_close(y, kept, rtol=0, atol=0)


def test_another_batch_is_launched_and_said(device: FakeDevice) -> None:
    fast, eager = graphed(network(), torch.randn(ROWS, 12))
    before = device.replays
    x = torch.randn(7, 12)
    torch.testing.assert_close(fast(x), eager(x), rtol=0, atol=0)
    assert device.replays == before
    assert f"one CUDA graph for {ROWS} rows; other batches are launched" in fast.explain(measure=False)


def test_run_and_seal(device: FakeDevice) -> None:
    fast, eager = graphed(network(), torch.randn(ROWS, 12))
    x, y = torch.randn(ROWS, 12), torch.full((ROWS, 5), float("nan"))
    assert fast.run(x, out=y) is y
    torch.testing.assert_close(y, eager(x), rtol=0, atol=0)
    step = fast.bind(x, out=y)
    fast.seal()
    before = device.replays
    fast.run(x, out=y)
    step()
    assert device.replays == before + 2
    with pytest.raises(ShapeError, match="sealed"):
        fast.run(torch.randn(7, 12), out=torch.empty(7, 5))
    with pytest.raises(UnsupportedProblem, match="bind before seal"):
        fast.bind(torch.randn(ROWS, 12), out=torch.empty(ROWS, 5))


def test_bound_tensors_are_read_and_written_in_place(device: FakeDevice) -> None:
    fast, eager = graphed(network(), torch.randn(ROWS, 12))
    x, y = torch.randn(2, 12), torch.empty(2, 5)  # another batch than the planned one: a graph of its own
    step = fast.bind(x, out=y)
    assert device.captures == 2
    for _ in range(3):
        x.normal_()
        y.fill_(float("nan"))
        step()
        torch.testing.assert_close(y, eager(x), rtol=0, atol=0)


def test_a_replay_is_refused_once_bound_memory_is_gone(device: FakeDevice) -> None:
    fast, _ = graphed(network(), torch.randn(ROWS, 12))
    x, y = torch.randn(ROWS, 12), torch.empty(ROWS, 5)
    step = fast.bind(x, out=y)
    step()
    before = device.replays
    x.set_(torch.randn(ROWS, 12))
    with pytest.raises(ShapeError, match="Bind again"):
        step()
    step = fast.bind(x, out=y)
    before = device.replays
    y.untyped_storage().resize_(0)
    with pytest.raises(ShapeError, match="Bind again"):
        step()
    assert device.replays == before


def test_tensors_that_do_not_fit_are_not_bound(device: FakeDevice) -> None:
    fast, _ = graphed(network(), torch.randn(ROWS, 12))
    with pytest.raises(ShapeError):
        fast.bind(torch.randn(ROWS, 12), out=torch.empty(ROWS + 1, 5))
    with pytest.raises(ShapeError):
        fast.bind(torch.randn(12, ROWS).T, out=torch.empty(ROWS, 5))


def test_pinned_host_memory_is_copied_around_the_replay(device: FakeDevice) -> None:
    fast, eager = graphed(network(), torch.randn(ROWS, 12))
    x, y = torch.randn(ROWS, 12), torch.empty(ROWS, 5)
    device.host = {x.data_ptr(), y.data_ptr()}
    with pytest.raises(ShapeError, match="pin_memory"):
        fast.bind(x, out=y)
    device.pinned = set(device.host)
    step = fast.bind(x, out=y)
    x.normal_()
    waits = device.waits
    step()
    assert device.waits == waits + 1  # the result is there when the call returns
    torch.testing.assert_close(y, eager(x), rtol=0, atol=0)


def test_a_graph_that_lost_a_kernel_is_found(device: FakeDevice) -> None:
    device.loses_kernels = True
    with pytest.raises(UnsupportedProblem, match="does not write output 0"):
        graphed(network(), torch.randn(ROWS, 12))


def test_a_sticky_error_marks_the_backend_dead_and_the_cpu_goes_on(device: FakeDevice) -> None:
    model, x = network(), torch.randn(ROWS, 12)
    fast, _ = graphed(model, x)

    def broken() -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nsecond line")

    device.on_replay = broken
    with pytest.raises(BackendUnavailable, match="illegal memory access") as caught:
        fast(x)
    assert "device='cpu'" in str(caught.value)
    device.on_replay = lambda: None
    with pytest.raises(BackendUnavailable, match="no CUDA call of this process works"):
        fast(x)
    with pytest.raises(BackendUnavailable, match="no CUDA call"):
        rt.compile(model, (x,), device="cuda")
    assert rt.compile(model, (x,))(x).isfinite().all()


def test_other_errors_leave_the_backend_alive(device: FakeDevice) -> None:
    x = torch.randn(ROWS, 12)
    fast, eager = graphed(network(), x)

    def full() -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    device.on_replay = full
    with pytest.raises(UnsupportedProblem, match="1 of 2 MiB are free"):
        fast(x)
    device.on_replay = lambda: None
    assert cuda_errors.dead() is None
    torch.testing.assert_close(fast(x), eager(x), rtol=0, atol=0)


def test_a_dead_gpu_is_the_reason_of_the_triton_backend() -> None:
    cuda_errors.mark_dead("after the error 'x' no CUDA call of this process works")
    reason = get_backend("triton").unavailable()
    assert reason is not None
    assert "no CUDA call" in reason or "triton is not installed" in reason


def test_new_weights_are_captured_anew(device: FakeDevice) -> None:
    fast, _ = graphed(network(), torch.randn(ROWS, 12))
    other, _ = graphed(network(), torch.randn(ROWS, 12))
    x = torch.randn(ROWS, 12)
    bound = fast.bind(x, out=torch.empty_like(fast(x)))
    captures = device.captures
    assert not torch.equal(fast(x), other(x))
    fast.load_state_dict(other.state_dict())
    assert device.captures == captures + 1
    with pytest.raises(UnsupportedProblem, match="weights that were replaced"):
        bound()
    torch.testing.assert_close(fast(x), other(x), rtol=0, atol=0)


def test_modes_are_for_gpus() -> None:
    x = torch.randn(1, 12)
    with pytest.raises(UnsupportedProblem, match="device='cuda'"):
        rt.compile(network(), (x,), mode="graph")
    with pytest.raises(UnsupportedProblem, match="one of"):
        rt.compile(network(), (x,), mode="fastest")


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> FakeCard:
    made = FakeCard()
    made.install(monkeypatch)
    return made


def test_the_order_of_a_capture(card: FakeCard) -> None:
    """Warm on the capturing stream before, no collection inside, and the caller's stream waits at the end."""

    def work() -> tuple[Tensor, ...]:
        card.log.append(f"work on {card.current().name}, gc {gc.isenabled()}")
        return (torch.zeros(1),)

    graph = cuda_device.TorchCuda().capture(work)
    assert card.log == [
        "pool waits for default", *["work on pool, gc True"] * cuda_device.WARM_UPS, "capture on pool",
        "work on pool, gc False", "captured", "default waits for pool",
    ]  # fmt: skip
    assert gc.isenabled()
    graph.replay()
    assert card.log[-1] == "replay on default"


def test_an_empty_graph_is_an_error(card: FakeCard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        FakeGraph, "capture_end", lambda self: warnings.warn("The CUDA Graph is empty. This usually ...", stacklevel=2)
    )
    with pytest.raises(UnsupportedProblem, match="without a single kernel"):
        cuda_device.TorchCuda().capture(lambda: (torch.zeros(1),))
    assert gc.isenabled()


def test_a_call_that_cannot_be_captured_is_named(card: FakeCard) -> None:
    def work() -> tuple[Tensor, ...]:
        if card.capturing:
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing")
        return (torch.zeros(1),)

    with pytest.raises(UnsupportedProblem, match="mode='eager'"):
        cuda_device.TorchCuda().capture(work)
    assert gc.isenabled()
    assert not card.capturing  # its stream can be used again


def test_calls_on_two_streams_follow_each_other(card: FakeCard) -> None:
    """They share workspaces and static buffers. On one stream nothing waits; what waits is the device."""
    order = StreamOrder()
    one, two = card.stream("one"), card.stream("two")
    for stream in (one, one, two, two, one):
        with card.on(stream), order:
            card.log.append(f"replay on {stream.name}")
    assert card.log == [
        "replay on one", "replay on one", "two waits for one", "replay on two", "replay on two", "one waits for two",
        "replay on one",
    ]  # fmt: skip
    card.capturing = True
    with card.on(two), order:  # a capture waits for nothing outside it
        assert card.log[-1] == "replay on one"


def test_a_stream_of_somebody_else_may_be_gone(card: FakeCard, monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits for it waits for an event: the address may be that of nothing by then, or of another stream."""
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    order, own, theirs, others = StreamOrder(), *(card.stream(name) for name in ("own", "theirs", "others"))
    others.cuda_stream = theirs.cuda_stream  # the address again
    for stream in (theirs, others):
        stream.stream_id = stream.cuda_stream
    with card.on(own), order:
        pass
    with card.on(theirs), order:
        pass
    theirs.gone = True
    for stream in (others, own, own):
        with card.on(stream), order:
            pass
    assert card.log == [
        "theirs waits for own", "others waits for what theirs was given", "own waits for what others was given"
    ]  # fmt: skip


def test_a_thread_may_be_inside_its_order_twice(card: FakeCard) -> None:
    order, one, two = StreamOrder(), card.stream("one"), card.stream("two")
    with card.on(one), order, order, card.on(two), order:
        pass
    assert card.log == ["two waits for one"]


def test_a_graph_is_captured_in_the_order_of_the_calls(device: FakeDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    """States are read and put back around a capture: a step that is on its way on another stream comes before."""
    inside = [0]

    class Counted:
        def __enter__(self) -> None:
            inside[0] += 1

        def __exit__(self, *_: object) -> None:
            inside[0] -= 1

    seen: list[int] = []
    restore = GraphPlan._restore
    monkeypatch.setattr(FakeDevice, "order", lambda self: Counted())
    monkeypatch.setattr(GraphPlan, "_restore", lambda self, kept: (seen.append(inside[0]), restore(self, kept))[1])
    fast, _ = graphed(network(), torch.randn(ROWS, 12))
    device.on_replay = lambda: seen.append(inside[0])
    fast.bind(torch.randn(ROWS, 12), out=torch.empty(ROWS, 5))
    assert len(seen) >= 4 and all(seen) and inside == [0]


def test_bound_calls_of_one_model_have_one_order(device: FakeDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[str] = []

    class Noted:
        def __enter__(self) -> None:
            held.append("in")

        def __exit__(self, *_: object) -> None:
            held.append("out")

    made: list[Noted] = []
    monkeypatch.setattr(FakeDevice, "order", lambda self: made.append(Noted()) or made[-1])
    fast, _ = graphed(network(), torch.randn(ROWS, 12))
    x, y = torch.randn(ROWS, 12), torch.empty(ROWS, 5)
    calls = [fast.bind(x, out=y), fast.bind(x.clone(), out=y.clone()), lambda: fast(x), lambda: fast.run(x, out=y)]
    assert len(made) == 1
    for call in calls:
        held.clear()
        device.on_replay = lambda: held.append("replay")
        call()
        assert held == ["in", "replay", "out"]


@pytest.mark.parametrize("scheme", ["w8a8", "w8a16", "w4a16", "w4a8", "bfloat16", "float32"])
def test_on_a_gpu(scheme: str) -> None:
    reason = get_backend("triton").unavailable()
    if reason is not None or not torch.cuda.is_available():
        pytest.skip(f"GPU figures and runs stay open here: {reason}")
    model, x = network(), torch.randn(1, 12, device="cuda")
    calibration = [torch.randn(64, 12)]
    fast = rt.compile(model, (x.cpu(),), scheme=scheme, calibration=calibration, device="cuda")
    eager = rt.compile(model, (x.cpu(),), scheme=scheme, calibration=calibration, device="cuda", mode="eager")
    y = torch.empty(1, 5, device="cuda")
    step = fast.bind(x, out=y)
    for _ in range(20):
        x.normal_()
        want = eager(x)
        torch.testing.assert_close(fast(x), want)
        step()
        torch.testing.assert_close(y, want)
    with torch.cuda.stream(torch.cuda.Stream()):  # another stream than the one it was captured on
        torch.cuda.current_stream().wait_stream(torch.cuda.default_stream())
        torch.testing.assert_close(fast(x), eager(x))
    host_x, host_y = torch.randn(1, 12).pin_memory(), torch.empty(1, 5).pin_memory()
    fast.bind(host_x, out=host_y)()
    torch.testing.assert_close(host_y, eager(host_x.cuda()).cpu())
