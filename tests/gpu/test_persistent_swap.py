"""Other weights for a stream that stays on a GPU, by the kernel in CUDA C++ on a CPU: the bits of the CPU's own stream after the
same swap, the states that go on, and what an order waits for."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import rtaccel as rt
from rtaccel.core.errors import FormatError
from rtaccel.kernels._gpu import cuda_nvrtc
from rtaccel.runtime.gpu.persistent_weights import RENEW, SECOND, WeightSets
from rtaccel.runtime.stream import StreamModel
from tests.cuda_checks import on_host
from tests.cuda_checks.streams import CASES, first_answers, in_place_of_a_gpu, other_weights, same, staying, streams

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="persistent streams need triton"),
    pytest.mark.skipif(on_host.missing() is not None, reason="no C++ compiler"),
]

Devices = Callable[..., on_host.HostDevice]


@pytest.fixture
def devices(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., on_host.HostDevice]]:
    yield from in_place_of_a_gpu(monkeypatch)


@pytest.mark.parametrize("case", CASES)
def test_the_bits_of_the_cpu_after_a_swap(case: str, devices: Devices) -> None:
    """Swaps and rollbacks between time steps, with a reset, a save and a load of states in the same messages, and a restart."""
    make, features, scheme, cut = CASES[case]
    device = devices(cut)
    live, plain = streams(make(), features, scheme)
    states = [other_weights(plain, seed) for seed in (1, 2)]

    def both(do: Callable[[StreamModel], Any]) -> None:
        for model in (live, plain):
            do(model)

    def step() -> Tensor:
        x = torch.randn(1, features)
        got = live.step(x)
        assert same(got, plain.step(x))
        return got

    step()
    launched = len(device.controls)
    for pending, what in (
        (True, lambda m: m.swap(states[0])), (True, lambda m: m.rollback()), (True, lambda m: m.rollback()),
        (True, lambda m: (m.swap(states[1]), m.reset())), (True, lambda m: (m.swap(states[0]), m.swap(states[1]))),
        (False, lambda m: (m.swap(states[0]), m.rollback())), (False, lambda m: (m.swap(states[0]), m.state_dict())),
        (True, lambda m: m.rollback()), (False, lambda m: m.load_stream(0, m.save_stream(0))),
    ):  # fmt: skip
        both(what)
        assert live.swap_pending == pending
        step()
        assert not live.swap_pending
        step()
    assert len(device.controls) == launched  # all by the kernel that was started at first
    both(lambda m: m.swap(states[0]))  # suspended with an order that was not sent
    live.suspend()
    step()
    both(lambda m: m.rollback())
    live.suspend()
    both(lambda m: m.swap(states[1]))  # while no kernel runs
    step()
    step()
    assert len(device.controls) == launched + 2
    live.close()


def test_what_does_not_fit_changes_nothing(devices: Devices) -> None:
    make, features, scheme, cut = CASES["lstm-one-program"]
    devices(cut)
    live, plain = streams(make(), features, scheme)
    state = other_weights(plain, 3)
    scale = next(key for key, entry in plain._state.entries.items() if entry.kind == "scale")
    x = torch.randn(1, features)
    assert same(live.step(x), plain.step(x))
    for wrong in ({**state, scale: state[scale] * 2}, {k: v for k, v in state.items() if "weight" not in k}):
        with pytest.raises(FormatError, match="swap"):
            live.swap(wrong)
        assert not live.swap_pending
    with pytest.raises(FormatError, match="without a swap"):
        live.rollback()
    assert same(live.step(x), plain.step(x))
    live.close()


def fences() -> list[int]:
    """Lines of the kernel behind which a block reads its weights anew."""
    source = (cuda_nvrtc.FOLDER / "recurrent/cuda/message.h").read_text().splitlines()
    found = [n for n, line in enumerate(source, 1) if "fence_system();" in line]
    assert len(found) == 4
    return found


@pytest.mark.parametrize(
    ("case", "needed"),
    [
        ("lstm-one-program", (1,)), ("lstm-int4-two", (3,)), ("lstm-one-program-polled", (0,)),
        ("lstm-int4-two-polled", (0, 3)),
    ],
)  # fmt: skip
def test_every_fence_that_reads_is_needed(case: str, needed: tuple[int, ...], devices: Devices) -> None:
    """Caches of a block keep what it has read (cuda_on_host.h). Without its fence a block that has read a set before goes on with
    what that was. The fence before a message is passed on orders what others see; tests/gpu/protocols/weights.py needs that."""
    make, features, scheme, cut = CASES[case]
    devices(cut)
    live, plain = streams(make(), features, scheme)
    live.close()
    states = [other_weights(plain, seed) for seed in range(10, 15)]
    wrong = []
    for line in (0, *fences()):
        devices(cut, skipped=line)
        live = staying(plain)
        good = True
        for state in states:
            for model in (live, plain):
                model.reset()
                model.swap(state)
            x = torch.randn(1, features)
            good = same(live.step(x), plain.step(x)) and good
        live.close()
        if not good:
            wrong.append(line)
    assert wrong == [fences()[at] for at in needed]


def test_from_another_thread_while_it_runs(devices: Devices) -> None:
    """Each answer is wholly of one set: the states before it, by the weights of the one or of the other."""
    make, features, scheme, cut = CASES["lstm-one-program"]
    devices(cut)
    live, plain = streams(make(), features, scheme)
    states = [other_weights(plain, seed) for seed in (6, 7)]
    x = torch.randn(1, features)
    wants = first_answers(plain, states, x)
    live.swap(states[0])
    got: list[Tensor] = []
    stop = threading.Event()

    def calls() -> None:
        while not stop.is_set():
            live.reset()
            got.append(live.step(x))

    caller = threading.Thread(target=calls)
    caller.start()
    for i in range(1, 13):
        seen = len(got)
        live.swap(states[i % 2])
        while len(got) < seen + 3:
            assert caller.is_alive()
    stop.set()
    caller.join()
    which = [[same(y, want) for want in wants] for y in got]
    assert all(sum(row) == 1 for row in which), [(at, y, wants) for at, y in enumerate(got) if sum(which[at]) != 1]
    assert {row.index(True) for row in which} == {0, 1}
    live.close()


class PlayedBox:
    """A mailbox whose messages are sent by the test. reading: the set that a kernel reads."""

    def __init__(self) -> None:
        self.command = self.reading = 0

    def order(self, bits: int) -> None:
        self.command |= bits

    def withdraw(self, bits: int) -> bool:
        found, self.command = self.command & bits, self.command & ~bits
        return bool(found)

    def send(self) -> None:
        if self.command & RENEW:
            self.reading = 1 if self.command & SECOND else 0
        self.command = 0


@given(
    st.lists(st.one_of(st.integers(0, 4), st.sampled_from(["send", "stop", "start"])), max_size=24),
    st.booleans(),
)
@settings(max_examples=200, deadline=None)
def test_a_set_is_written_only_while_nobody_reads_it(what: list[Any], running: bool) -> None:
    """Exchanges with any of five sets of weights, messages, ends and starts in any order."""
    packed = [{"words_ptr": torch.full((3,), i)} for i in range(5)]
    sets, box, wanted = WeightSets(packed[0], "cpu"), PlayedBox(), 0

    def copying(work: Callable[[], None]) -> None:
        before = sets.tensors["words_ptr"][box.reading].clone()
        work()
        if running:
            assert torch.equal(sets.tensors["words_ptr"][box.reading], before), "it was read"

    for step in what:
        if step == "send" and running:
            box.send()
        elif step == "stop":
            running = False
        elif step == "start" and not running:
            box.reading, running = sets.at_start(box), True  # type: ignore[arg-type]
        elif isinstance(step, int):
            sets.exchange(packed[step], box, copying)  # type: ignore[arg-type]
            wanted = step
        assert sets.latest is packed[wanted]
    if not running:
        box.reading = sets.at_start(box)  # type: ignore[arg-type]
    box.send()
    assert int(sets.tensors["words_ptr"][box.reading][0]) == wanted


@pytest.mark.parametrize("case", CASES)
def test_a_saved_stream_goes_on_on_the_cpu(case: str, devices: Devices, tmp_path: Path) -> None:
    """The file of a persistent stream: with its past, corrupted or not, after a swap, and without."""
    make, features, scheme, cut = CASES[case]
    devices(cut)
    live, plain = streams(make(), features, scheme)
    x = torch.randn(4, 1, features)

    def go_on(states: bool) -> None:
        loaded = rt.load(rt.save(live, tmp_path / "stream.rta", states=states))
        if not states:
            plain.reset()
        for row in x:
            want = plain.step(row)
            assert same(torch.from_numpy(loaded.step(row.numpy())), want)
            if states:
                assert same(live.step(row), want)

    for _ in range(3):
        row = torch.randn(1, features)
        assert same(live.step(row), plain.step(row))
    go_on(True)
    for model in (live, plain):
        model.swap(other_weights(plain, 21))
    go_on(True)
    row = torch.full((1, features), float("nan"))
    assert same(live.step(row), plain.step(row))
    go_on(True)
    go_on(False)
    live.close()
