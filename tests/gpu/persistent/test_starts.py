"""A first call that starts the kernel, beside other threads that call, swap and reset meanwhile."""

from __future__ import annotations

import functools
import importlib.util
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from tests.cuda_checks import on_host
from tests.cuda_checks.streams import CASES, first_answers, in_place_of_a_gpu, other_weights, same, streams

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="persistent streams need triton"),
    pytest.mark.skipif(on_host.missing() is not None, reason="no C++ compiler"),
]

Devices = Callable[..., on_host.HostDevice]
DELAYS_S = [0.0, 2e-4, 1e-3, 3e-3]
"""Of what happens beside a start, which takes some milliseconds here."""


@pytest.fixture
def devices(monkeypatch: pytest.MonkeyPatch) -> Iterator[Devices]:
    yield from in_place_of_a_gpu(monkeypatch)


def beside(delay_s: float, work: Callable[[], object], *calls: Callable[[], Tensor]) -> list[Tensor]:
    """Makes the calls in threads of their own, and some time after that the work in this one; what the calls gave."""
    got: list[Tensor] = []
    threads = [threading.Thread(target=lambda call=call: got.append(call())) for call in calls]  # type: ignore[misc]
    for thread in threads:
        thread.start()
    time.sleep(delay_s)
    work()
    for thread in threads:
        thread.join()
    return got


def test_a_swap_is_not_lost(devices: Devices) -> None:
    """Behind it all calls are by its weights, and the set that they read is not written: two calls start one kernel."""
    make, features, scheme, cut = CASES["lstm-one-program"]
    device = devices(cut)
    live, plain = streams(make(), features, scheme)
    states = [other_weights(plain, seed) for seed in (6, 7, 8)]
    x = torch.randn(1, features)
    wants = first_answers(plain, states, x)

    def first() -> Tensor:
        live.reset()
        return live.step(x)

    at = 0
    for delay_s in DELAYS_S * 4:
        live.suspend()
        started = len(device.controls)
        beside(delay_s, functools.partial(live.swap, states[at]), first, first)
        assert len(device.controls) == started + 1
        for _ in range(3):
            assert same(first(), wants[at])
            at = (at + 1) % 3
            live.swap(states[at])
        assert same(first(), wants[at])
        at = (at + 1) % 3
    live.close()


def test_a_reset_is_not_lost(devices: Devices) -> None:
    """It comes before the call that starts the kernel, which loads the states of before, or behind it."""
    make, features, scheme, cut = CASES["lstm-one-program"]
    devices(cut)
    live, plain = streams(make(), features, scheme)
    x = torch.randn(1, features)
    wants = [plain.step(x) for _ in range(3)]
    for delay_s in DELAYS_S * 4:
        live.reset()
        assert same(live.step(x), wants[0])
        live.suspend()
        got = beside(delay_s, live.reset, lambda: live.step(x))
        got.append(live.step(x))
        before, behind = (all(map(same, got, want)) for want in ((wants[0], wants[1]), (wants[1], wants[0])))
        assert before or behind, (got, wants)
    live.close()
