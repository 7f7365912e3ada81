"""What is loaded when, and weights that change, on a device that hangs where a real one would (tests/support/fake_cuda.py)."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
import torch

from rtaccel.backends import cuda_persistent
from rtaccel.core.errors import BackendUnavailable
from rtaccel.runtime.gpu import persistent_stacks
from rtaccel.runtime.gpu.persistent_device import CudaPersistent
from rtaccel.runtime.gpu.persistent_weights import RENEW, SECOND
from rtaccel.runtime.options import Options
from rtaccel.runtime.steps import planned
from tests.gpu.persistent.models import Make, call, lowered_chain, reloaded, stream
from tests.support.fake_cuda import FakeCard

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")


def test_all_is_loaded_before_the_first_starts(card: FakeCard, chain: Make) -> None:
    one, two, live = chain(32), chain(48), stream()
    assert len(card.loaded) == 3 and not card.kernels
    call(one)
    before = list(card.loaded)
    call(two)
    live.step(torch.randn(1, 40))
    assert card.loaded == before and len(card.running) == 3
    assert f"ready {before[2]}" in card.log  # the driver's lazy loading, too
    for model in (one, two, live):
        model.close()
    assert not card.running


def test_another_model_of_the_same_code_loads_nothing(card: FakeCard) -> None:
    first = stream()
    first.step(torch.randn(1, 40))
    second = stream()  # beside the first, which runs
    second.step(torch.randn(1, 40))
    assert len(card.loaded) == 1 and len(card.running) == 2


def test_code_is_not_loaded_beside_a_persistent_kernel(card: FakeCard, chain: Make) -> None:
    one = chain(32)
    call(one)
    with pytest.raises(BackendUnavailable, match=r"not loaded yet.*Compile all models before the first call"):
        chain(48)
    with pytest.raises(BackendUnavailable, match="not loaded yet"):
        stream()
    assert [seat.name for seat in cuda_persistent._seats] == ["mlp 20-32-5"]  # a refusal takes no room
    one.suspend()
    two = chain(48)
    assert torch.equal(call(one), call(two))  # zeros, from both: the first was started again
    assert len(card.running) == 2


def test_a_layer_that_is_launched_first_beside_it(card: FakeCard, chain: Make) -> None:
    """By Triton's JIT, which loads at the first launch."""
    from rtaccel.core.stage import Problem
    from rtaccel.kernels.linear import contract
    from rtaccel.kernels.linear.triton import gemv

    stage = contract.make_stage(32, 10, "static")
    layers = [gemv.prepare(stage, Problem.of(stage, 1)) for _ in range(2)]
    one = chain()
    call(one)
    x = torch.zeros(1, 32, dtype=torch.int8)
    with pytest.raises(BackendUnavailable, match="linear_gemv"):
        layers[0](x)
    one.suspend()
    layers[0](x)
    call(one)
    layers[0](x)  # loaded by now


def test_to_compile_for_the_gpu_is_to_load(card: FakeCard, chain: Make) -> None:
    model = chain()
    call(model)
    with pytest.raises(BackendUnavailable, match="not loaded yet"):
        planned.build_executor(lowered_chain(48)._program, Options(1, "cuda", None, 1, "Other", mode="eager"))


def test_new_weights_load_no_code_and_wait_for_nothing(card: FakeCard) -> None:
    live, other = stream(), stream()
    state = other.state_dict()
    live.step(torch.randn(1, 40))
    other.close()
    for _ in range(3):
        reloaded(live, state)
        assert not card.running  # the old one ended first; the new one starts with the next step
        live.step(torch.randn(1, 40))
        assert len(card.running) == 1
    assert len(card.loaded) == 1


def test_weights_are_exchanged_beside_a_kernel_that_runs(card: FakeCard, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is loaded, launched or waited for but the copies, which go by pinned memory; the next message orders it."""
    seen: list[int] = []
    for_the_card = persistent_stacks.WeightSets

    def pinned(packed: Any, device: str) -> Any:
        sets = for_the_card(packed, device)
        sets._staging = {name: torch.full_like(t, 85) for name, t in packed.items()}  # as on a card
        return sets

    monkeypatch.setattr(persistent_stacks, "WeightSets", pinned)
    live = stream()
    live.step(torch.randn(1, 40))
    (kernel,) = card.running
    log, loaded, sets = list(card.log), list(card.loaded), live._plan().weights
    state = {k: v.flip(0) if v.dtype == torch.int8 else v for k, v in live.state_dict().items() if k != "_extra_state"}
    for swap in (lambda: live.swap(state), live.rollback, live.rollback):
        number = live._plan()._kernel.box.number
        swap()
        assert live.swap_pending
        live.step(torch.randn(1, 40))
        assert not live.swap_pending
        words = kernel._requests.numel() // 2
        last = kernel._requests[((number + 1) & 1) * words :][words - 1]
        seen.append(int(last) & 0xFFFFFFFF)
    assert seen == [RENEW | SECOND, RENEW, RENEW | SECOND]
    assert kernel.alive and card.loaded == loaded and card.log == log
    for name, packed in live._plan().packed(live._executor.steps[0].source.group).items():
        assert torch.equal(sets.tensors[name][1], packed), name
    live.close()


def test_a_load_that_fails_leaves_the_old_one_working(card: FakeCard, monkeypatch: pytest.MonkeyPatch) -> None:
    live = stream()
    state = live.state_dict()
    live.step(torch.randn(1, 40))

    def full(*_: Any) -> Any:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(CudaPersistent, "load", full)
        with pytest.raises(torch.cuda.OutOfMemoryError):
            reloaded(live, state)
    live.step(torch.randn(1, 40))
    assert len(card.running) == 1
    assert len(cuda_persistent._seats) == 1
