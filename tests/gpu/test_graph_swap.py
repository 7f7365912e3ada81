"""Other weights under a graph: its kernels, its captured calls and those of other batches, on a device that pretends."""

from __future__ import annotations

import functools
import threading
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import rtaccel as rt
from rtaccel.backends import get_backend
from rtaccel.core.errors import FormatError, UnsupportedProblem
from rtaccel.runtime.compiled import CompiledModel
from rtaccel.runtime.gpu.exchange import Exchange
from rtaccel.runtime.options import Options
from rtaccel.runtime.steps import planned
from tests.support.fake_device import FakeDevice

ROWS = 3


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv1d(4, 8, 3), nn.LayerNorm(8)
        self.gru, self.head = nn.GRU(8, 12, batch_first=True), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.gru(self.norm(torch.relu(self.conv(x)).transpose(1, 2)))
        return self.head(y[:, -1])


SCHEMES = ("float32", "w8a8", "w8a16", "w4a16")


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return Net().eval()


@functools.cache
def launched(seed: int, scheme: str) -> CompiledModel:
    """The model without a graph."""
    calibration = [torch.randn(32, 4, 9, generator=torch.Generator().manual_seed(0))]
    options: Any = {"calibration": calibration} if scheme != "float32" else {}
    fast = rt.compile(network(seed), (torch.zeros(ROWS, 4, 9),), backend="portable", scheme=scheme, **options)
    assert isinstance(fast, CompiledModel)
    return fast


def compiled(seed: int, scheme: str) -> CompiledModel:
    return CompiledModel(launched(seed, scheme)._program, Options(ROWS, "cpu", "portable", 0, "Net", mode="graph"), ())


def reference(scheme: str, state: dict[str, Tensor]) -> CompiledModel:
    """The first model with other weights, kernel by kernel: a capture takes a second of garbage collection."""
    plain = CompiledModel(launched(1, scheme)._program, Options(ROWS, "cpu", "portable", 0, "Net"), ())
    plain.load_state_dict(state)
    return plain


def state_of(seed: int, scheme: str, like: CompiledModel) -> dict[str, Tensor]:
    """The weights of another model with the static scales of this one."""
    other, own = launched(seed, scheme).state_dict(), like.state_dict()
    kept = {key for key, entry in like._state.entries.items() if entry.kind != "tensor"} | {"structure"}
    return {key: own[key] if key in kept else value for key, value in other.items()}


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> FakeDevice:
    made = FakeDevice()
    monkeypatch.setattr(planned, "device_layer", lambda name: made)
    return made


@pytest.mark.parametrize("scheme", SCHEMES)
def test_no_capture_and_the_bits_of_the_other_model(device: FakeDevice, scheme: str) -> None:
    fast = compiled(1, scheme)
    x, y = torch.randn(ROWS, 4, 9), torch.empty(ROWS, 5)
    call, many = fast.bind(x, out=y), torch.randn(7, 4, 9)
    captures, own = device.captures, fast.state_dict()
    before, before_many = fast(x), fast(many)
    state = state_of(2, scheme, fast)
    wanted = reference(scheme, state)
    report = fast.swap(state)
    assert report.tensors == len(fast._state.entries)
    assert not torch.equal(fast(x), before)
    assert torch.equal(fast(x), wanted(x))
    assert torch.equal(fast(many), wanted(many))  # launched kernel by kernel
    y.fill_(float("nan"))
    call()
    assert torch.equal(y, wanted(x))
    for key, value in wanted.state_dict().items():
        assert torch.equal(fast.state_dict()[key], value), key
    for _ in range(2):
        fast.rollback()
        assert torch.equal(fast(x), before)
        assert torch.equal(fast(many), before_many)
        for key, value in own.items():
            assert torch.equal(fast.state_dict()[key], value), key
        fast.rollback()
        assert torch.equal(fast(x), wanted(x))
    assert device.captures == captures


def test_a_sealed_model_takes_them(device: FakeDevice) -> None:
    fast, x, y = compiled(1, "w8a8"), torch.randn(ROWS, 4, 9), torch.empty(ROWS, 5)
    fast.seal()
    state = state_of(2, "w8a8", fast)
    wanted = reference("w8a8", state)
    fast.swap(state)
    assert torch.equal(fast.run(x, out=y), wanted(x))


@settings(max_examples=6, deadline=None)
@given(st.lists(st.sampled_from(["swap 2", "swap 3", "swap 1", "rollback"]), min_size=1, max_size=6))
def test_any_order_of_swaps_and_rollbacks(steps: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        made = FakeDevice()
        patch.setattr(planned, "device_layer", lambda name: made)
        fast, x = compiled(1, "w8a8"), torch.randn(ROWS, 4, 9)
        states = {n: state_of(n, "w8a8", fast) for n in (1, 2, 3)}
        wanted = {n: reference("w8a8", state)(x) for n, state in states.items()}
        now, before = 1, None
        for step in steps:
            if step == "rollback":
                if before is None:
                    with pytest.raises(FormatError, match="without a swap"):
                        fast.rollback()
                    continue
                fast.rollback()
                now, before = before, now
            else:
                now, before = int(step[-1]), now
                fast.swap(states[now])
            assert torch.equal(fast(x), wanted[now])


def test_what_does_not_fit_changes_nothing(device: FakeDevice) -> None:
    fast, x = compiled(1, "w8a8"), torch.randn(ROWS, 4, 9)
    before, state = fast(x), state_of(2, "w8a8", fast)
    key = next(k for k, entry in fast._state.entries.items() if entry.kind == "scale")
    for bad in ({**state, key: state[key] * 2}, {k: v for k, v in state.items() if k != key}, compiled(1, "float32")):
        with pytest.raises(FormatError, match="swap"):
            fast.swap(bad)
        assert torch.equal(fast(x), before)
    eager = launched(1, "w8a8")  # on the CPU, where another thread may be inside
    with pytest.raises(UnsupportedProblem, match="one native call"):
        eager.swap(state)


def test_kernels_that_differ_are_refused() -> None:
    a, b = torch.zeros(4), torch.ones(4)
    pair = torch.arange(8.0)

    def kernel(weight: Tensor, scale: float) -> Any:
        return lambda x: x * weight * scale

    for running, fresh, why in (
        (kernel(a, 1.0), kernel(b, 2.0), "scale"),
        (kernel(a, 1.0), kernel(torch.ones(5), 1.0), "weight"),
        (kernel(a, 1.0), lambda x: x, "lambda"),
        ([a, a], [b, b.clone()], "share memory"),
        ([pair[:4], pair[4:]], [torch.zeros(4), torch.zeros(4)], "0: |1: "),
        ({"a": a}, {"b": b}, "'a'"),
        ([a], (a,), "list"),
        ([a], [b, b], "parts"),
        (object(), object(), "object"),
    ):
        with pytest.raises(FormatError, match=why):
            Exchange(running, fresh)
    nan = kernel(a, float("nan")), kernel(b, float("nan"))
    both = Exchange(*nan)
    assert both.bytes == 16
    other = pair.clone()
    assert Exchange([pair[:4], pair[4:]], [other[:4], other[4:]]).bytes == 32


def test_it_comes_between_two_calls() -> None:
    """The order of the model's calls is held while contents move, so that no call of another thread is among them."""
    inside = threading.Event()

    class Order:
        def __enter__(self) -> None:
            inside.set()

        def __exit__(self, *_: object) -> None:
            inside.clear()

    class Seen(Tensor):
        @classmethod
        def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is Tensor.copy_:
                assert inside.is_set()
            return super().__torch_function__(func, types, args, kwargs or {})

    a, b = torch.zeros(4), torch.ones(4)
    both = Exchange([a], [b])
    both._pairs = [(mine.as_subclass(Seen), other.as_subclass(Seen)) for mine, other in both._pairs]  # type: ignore[misc]
    both.flip(Order())  # type: ignore[arg-type]
    assert torch.equal(a, torch.ones(4)) and torch.equal(b, torch.zeros(4))
    assert not inside.is_set()


@pytest.mark.skipif(get_backend("triton").unavailable() is not None, reason="no GPU with Triton")
@pytest.mark.parametrize("scheme", SCHEMES)
def test_on_a_gpu(scheme: str) -> None:
    x = torch.randn(ROWS, 4, 9, device="cuda")
    calibration = [torch.randn(32, 4, 9, device="cuda")]
    fast, other = (
        rt.compile(
            network(n).cuda(), (x,), scheme=scheme, **({"calibration": calibration} if scheme != "float32" else {})
        )
        for n in (1, 2)
    )
    own = fast.state_dict()
    kept = {key for key, entry in fast._state.entries.items() if entry.kind != "tensor"} | {"structure"}
    state = {key: own[key] if key in kept else value for key, value in other.state_dict().items()}
    before, call = fast(x), fast.bind(x, out=(y := torch.empty(ROWS, 5, device="cuda")))
    fast.swap(state)
    call()
    torch.cuda.synchronize()
    after = y.clone()
    fast.load_state_dict(state)
    torch.testing.assert_close(after, fast(x), rtol=0, atol=0)
    assert not torch.equal(after, before)
