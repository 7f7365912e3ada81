"""Bound calls of a compiled model by its mailbox; a thread plays the kernel. More of them: tests/gpu/test_persistent.py."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt
from rtaccel._native import MailboxLoop, MailboxStep
from rtaccel.core.errors import BackendUnavailable, ShapeError
from rtaccel.runtime.compiled import CompiledModel
from rtaccel.runtime.gpu import persistent
from rtaccel.runtime.options import Options
from tests.gpu.mailbox.side import wait_until, wait_until_failed
from tests.support.fake_kernel import FakeCard


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCard]:
    made = FakeCard()
    monkeypatch.setattr(persistent, "persistent_device", lambda: made)
    monkeypatch.setattr(persistent, "TIMEOUT_NS", 5_000_000_000)
    yield made
    for kernel in made.kernels:
        kernel._control[0] = 1


def bound() -> tuple[CompiledModel, Tensor, Tensor, MailboxStep]:
    pytest.importorskip("triton", reason="triton is not installed (pip install 'rtaccel[gpu]')")
    model = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 5)).eval()
    x, y = torch.randn(1, 20), torch.full((1, 5), 7.0)
    plain = rt.compile(model, (x,), backend="portable", scheme="w8a8", calibration=[torch.randn(64, 20)])
    fast = CompiledModel(plain._program, Options(1, "cpu", None, 1, "Net", mode="persistent"), plain._argument_names)
    step = fast.bind(x, out=y)
    assert type(step) is MailboxStep
    return fast, x, y, step


def test_what_a_bound_call_ends_with(card: FakeCard) -> None:
    fast, x, _, step = bound()
    step()
    kept = x.clone()
    x.set_(torch.randn(1, 20))
    with pytest.raises(ShapeError, match="Bind again"):
        step()
    step = fast.bind(kept, out=torch.empty(1, 5))
    fast.close()
    with pytest.raises(BackendUnavailable, match="closed"):
        step()


def test_a_bound_call_goes_on_after_a_pause(card: FakeCard) -> None:
    fast, x, y, step = bound()
    step()
    want = y.clone()
    fast.suspend()
    assert card.kernels[0].finished()
    y.fill_(7.0)
    step()  # starts it again
    assert len(card.kernels) == 2 and torch.equal(y, want)
    for _ in range(3):
        x.normal_()
        step()
        assert torch.equal(y, fast(x))


def test_a_bound_call_without_an_answer(card: FakeCard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(persistent, "TIMEOUT_NS", 20_000_000)
    card.mute = True
    _, _, _, step = bound()
    with pytest.raises(BackendUnavailable, match=r"no answer in 0.02 s; it runs, it still looks"):
        step()
    assert card.kernels[0].finished()
    with pytest.raises(BackendUnavailable, match="no answer"):
        step()


def test_a_loop_on_a_model(card: FakeCard) -> None:
    fast, x, y, step = bound()
    loop = MailboxLoop(step, -1)
    loop.start()
    wait_until(loop, 20)
    with pytest.raises(RuntimeError, match="stop"):
        fast(x)
    assert loop.stop() >= 20 and not loop.failed
    assert torch.equal(fast(x), y)
    loop.start()
    fast.close()
    wait_until_failed(loop)
    loop.stop()


def test_a_bound_call_is_measured_inside(card: FakeCard) -> None:
    _, _, _, step = bound()
    found = rt.measure(step, samples=30, inside=True)
    assert found.n == 30 and found.p50_us > 0
