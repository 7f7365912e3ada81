"""The rows of persistent models, on a card that a thread plays: starts, ends, and several at once."""

from __future__ import annotations

import copy
import importlib.util
import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

import rtaccel as rt
from bench.device.rows import null, persistent, timing
from rtaccel import _native
from rtaccel.core.errors import BackendUnavailable
from rtaccel.runtime.compiled import CompiledModel
from rtaccel.runtime.gpu import persistent as cuda_resident
from rtaccel.runtime.options import Options
from tests.support.fake_kernel import FakeCard


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCard]:
    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed")
    made = FakeCard()
    monkeypatch.setattr(cuda_resident, "persistent_device", lambda: made)
    monkeypatch.setattr(cuda_resident, "TIMEOUT_NS", 20_000_000_000)
    yield made
    for kernel in made.kernels:
        kernel._control[0] = 1


class Maker:
    """Models on a kernel that a thread plays."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)).eval()
        self.calibration = [torch.randn(64, 8)]
        self.made = 0

    def __call__(self) -> Any:
        self.made += 1
        x = torch.randn(1, 8)
        plain: Any = rt.compile(self.model, (x,), backend="portable", scheme="w8a8", calibration=self.calibration)
        return CompiledModel(
            plain._program, Options(1, "cpu", None, 1, "Net", mode="persistent"), plain._argument_names
        )


def all_ended(card: FakeCard) -> bool:
    return all(kernel.finished() for kernel in card.kernels)


def test_every_start_is_followed_by_an_end_and_nothing_is_compiled_again(card: FakeCard) -> None:
    make = Maker()
    assert persistent.starts(make, 8, 5, 60) == {"passed": True, "starts": 5}
    assert make.made == 1
    assert len(card.kernels) == 5
    assert all_ended(card)


def test_starts_end_with_their_time(card: FakeCard) -> None:
    found = persistent.starts(Maker(), 8, 100_000, 0.0)
    assert found == {"passed": True, "starts": 1}
    assert all_ended(card)


def test_another_answer_is_told(card: FakeCard, monkeypatch: pytest.MonkeyPatch) -> None:
    make = Maker()
    fast = make()
    load = fast.load_state_dict

    def changed(state: Any) -> Any:
        return load({k: v + 1 if k.endswith("bias") else v for k, v in copy.copy(state).items()})

    monkeypatch.setattr(fast, "load_state_dict", changed)
    found = persistent.starts(lambda: fast, 8, 4, 60)
    assert found["passed"] is False
    assert "start 2: another answer" in found["error"]
    assert all_ended(card)


def test_calls_are_timed_and_the_kernel_ends(card: FakeCard) -> None:
    found = persistent.calls(Maker(), 8, 0.05)
    assert 0 < found["p50_us"] <= found["p99_us"] <= found["max_us"]
    assert all_ended(card)


class NativeLoop:
    """What the native core's loop is asked for."""

    made: list[NativeLoop] = []  # noqa: RUF012

    def __init__(self, step: Any, core: int) -> None:
        self.core, self.step, self.started = core, step, False
        self.made.append(self)

    def start(self) -> None:
        self.started = True
        self.step()

    def stop(self) -> int:
        assert self.started
        return 7


@pytest.mark.parametrize("native", [True, False])
def test_several_are_called_at_once(card: FakeCard, monkeypatch: pytest.MonkeyPatch, native: bool) -> None:
    """Compiled once, copied, all in this process; by the native loop where the core has one."""
    NativeLoop.made.clear()
    if native:
        monkeypatch.setattr(_native, "MailboxLoop", NativeLoop, raising=False)
    else:
        monkeypatch.delattr(_native, "MailboxLoop", raising=False)
    make = Maker()
    alone, together = persistent.at_once(make, 8, 0.05, models=3)
    assert make.made == 1
    assert (alone["name"], together["name"]) == ("one model of eight, alone", "one model of 3, all called at once")
    assert together["ratio_p99"] == together["p99_us"] / alone["p99_us"]
    assert together["calls_of_others"] == 14 if native else together["calls_of_others"] > 0
    assert together["loops"].startswith("native" if native else "threads")
    cores = os.sched_getaffinity(0)
    assert len(NativeLoop.made) == (2 if native else 0)
    assert all(loop.core == -1 or loop.core in cores - {max(cores)} for loop in NativeLoop.made)
    assert len(card.kernels) == 3
    assert all_ended(card)


def test_what_is_started_is_ended_when_one_fails(card: FakeCard) -> None:
    card.mute = True
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda_resident, "TIMEOUT_NS", 20_000_000)
        with pytest.raises(BackendUnavailable, match="no answer"):
            list(persistent.at_once(Maker(), 8, 0.05, models=3))
    assert all_ended(card)


def test_nothing_but_the_timed_loop_is_on_one_core() -> None:
    before, inside = os.sched_getaffinity(0), set()
    timing.timed(lambda: inside.update(os.sched_getaffinity(0)), 0.02)
    assert inside == {max(before)}
    assert os.sched_getaffinity(0) == before
    with pytest.raises(ZeroDivisionError), timing.on_one_core(min(before)):
        raise ZeroDivisionError
    assert os.sched_getaffinity(0) == before


def test_a_null_row_waits_for_the_end_of_its_kernel() -> None:
    answers = iter([False, False, True])
    null.wait_for_end(lambda: next(answers))
    assert next(answers, None) is None
    with pytest.raises(BackendUnavailable, match="does not end"):
        null.wait_for_end(lambda: False, 0.01)


def test_graphs_hold_whole_rounds_and_copies_no_cache_holds() -> None:
    calls = [lambda: 0, lambda: 1, lambda: 2]
    many = timing.rounds_of(calls, 200)
    assert len(many) == 201
    assert many[:3] == calls
    assert timing.copies_for(8 << 20) * (8 << 20) >= 3 * (60 << 20)
    assert timing.copies_for(1 << 40) == 2
