"""Results of a batcher by callback: all of them, in order, and what a callback may not do."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
import torch

import rtaccel as rt
from rtaccel.core.errors import UnsupportedProblem
from rtaccel.serve.answer import STATUSES
from tests.serve.test_batcher import FAR_US, make


def test_results_by_callback() -> None:
    live, alone = make(), make()
    got: list[tuple[torch.Tensor, ...]] = []
    with rt.StreamBatcher(live, deadline_us=FAR_US, on_result=lambda *r: got.append(r)) as hub:
        now = time.monotonic_ns()
        assert hub.put(3, torch.ones(3), now - 50) == "queued"
        assert hub.put(3, torch.ones(3), now) == "replacing"
        assert hub.put(3, torch.ones(3), now - 10) == "replaced"
        assert hub.put_many([1, 1, 3], torch.ones(3, 3), now - 5) == {1: "replacing", 2: "replaced"}
    streams, y, status = got[0]
    assert len(got) == 1
    assert streams.tolist() == [1, 3]
    assert [STATUSES[c] for c in status] == ["ok", "ok"]
    assert torch.equal(y, alone.step(torch.ones(2, 3), streams=[1, 3]))
    assert hub.stats().replaced == 4


def test_dropped_samples_come_by_callback_as_nan() -> None:
    got: list[tuple[torch.Tensor, ...]] = []
    old = time.monotonic_ns() - 10**10
    with rt.StreamBatcher(make(), deadline_us=1000, late="drop", on_result=lambda *r: got.append(r)) as hub:
        assert hub.put(3, torch.ones(3), old) == "queued"
        while not got:
            time.sleep(0.001)
    streams, y, status = got[0]
    assert (streams.tolist(), status.tolist()) == ([3], [STATUSES.index("dropped")])
    assert y.isnan().all()


@pytest.mark.parametrize("behind", [1, 3, 16])
def test_a_slow_callback_makes_puts_full(behind: int) -> None:
    go, got = threading.Event(), []

    def slow(streams: torch.Tensor, y: torch.Tensor, status: torch.Tensor) -> None:
        go.wait(60)
        got.append(streams)

    with rt.StreamBatcher(make(), deadline_us=100, on_result=slow, behind=behind) as hub:
        puts = 0
        while (said := hub.put(0, torch.ones(3))) != "full":
            assert said in ("queued", "replacing")
            puts += 1
            time.sleep(0.001)
        assert hub.put_many([1, 2], torch.ones(2, 3)) == {0: "full", 1: "full"}
        assert hub.stats().batches == behind  # what on_result may be behind
        go.set()
    stats = hub.stats()
    assert (stats.put, stats.full) == (puts, 3)
    assert sum(map(len, got)) == stats.answered == stats.put - stats.replaced


def test_what_a_callback_raises_comes_out_and_loses_no_results() -> None:
    calls = []

    def broken(streams: torch.Tensor, y: torch.Tensor, status: torch.Tensor) -> None:
        calls.append(len(streams))
        raise KeyError(len(calls))

    hub = rt.StreamBatcher(make(), deadline_us=FAR_US, on_result=broken).start()
    for _ in range(3):
        hub.put_many(range(5), torch.ones(5, 3))
        while hub.stats(check=False).answered < hub.stats(check=False).put:
            time.sleep(0)
    while not calls:
        time.sleep(0)
    with pytest.raises(KeyError, match="1"):
        hub.stop()
    with pytest.raises(KeyError, match="1"):
        hub.stats()
    assert sum(calls) == hub.stats(check=False).answered
    assert not hub.running


def test_a_callback_cannot_stop_its_batcher() -> None:
    hub: Any = None
    hub = rt.StreamBatcher(make(), deadline_us=FAR_US, on_result=lambda *_: hub.stop()).start()
    hub.put_many(range(5), torch.ones(5, 3))
    with pytest.raises(UnsupportedProblem, match="on_result"):
        hub.stop()
