"""Batchers that share threads, on real clocks: answers, stops, what is refused, another model's overrun."""

from __future__ import annotations

import os
import threading
from typing import Any

import pytest
import torch

import rtaccel as rt
from rtaccel.core.errors import FormatError, UnsupportedProblem


def make(units: int, streams: int = 40, scheme: str = "w8a8") -> tuple[rt.StreamModel, rt.StreamModel]:
    torch.manual_seed(units)
    model, windows = torch.nn.GRU(3, units, batch_first=True).eval(), torch.randn(16, 20, 3)
    return tuple(rt.stream(model, torch.randn(streams, 3), scheme=scheme, calibration=[windows]) for _ in range(2))  # type: ignore[return-value]


@pytest.mark.parametrize("threads", [1, 2])
def test_each_model_has_the_answers_that_it_has_alone(threads: int) -> None:
    pairs = [make(units) for units in (4, 9, 16)]
    rows = torch.randn(10, 3, 40, 3)
    with rt.BatchWorkers(threads) as pool:
        hubs = [rt.StreamBatcher(live, 1000 * (1 + i), workers=pool).start() for i, (live, _) in enumerate(pairs)]
        assert pool.stats().batchers == 3
        for turn in range(10):
            tickets = [[hub.put(s, rows[turn, i, s]) for s in range(40)] for i, hub in enumerate(hubs)]
            for i, (_, alone) in enumerate(pairs):
                expected = alone.step(rows[turn, i])
                for s, ticket in enumerate(tickets[i]):
                    answer = ticket.result(timeout=60)
                    assert answer.status in ("ok", "late")
                    assert torch.equal(answer.y, expected[s])
        for hub in hubs:
            hub.stop()
            stats = hub.stats()
            assert stats.put == stats.answered == 400
            assert stats.batches >= 10
        assert pool.stats().batches == sum(hub.stats().batches for hub in hubs)
        assert pool.stats().batchers == 0
    assert not pool.running


def test_a_batcher_that_stops_leaves_the_others_running() -> None:
    (a, _), (b, _) = make(4), make(5)
    with rt.BatchWorkers(1) as pool, rt.StreamBatcher(a, 500, workers=pool) as first:
        with rt.StreamBatcher(b, 500, workers=pool) as second:
            waiting = second.put(3, torch.ones(3))
        assert waiting.result(timeout=60).status in ("ok", "late")
        assert first.put(7, torch.ones(3)).result(timeout=60).status in ("ok", "late")
        with rt.StreamBatcher(b, 500, workers=pool) as again:  # the model is free, and joins anew
            assert again.put(3, torch.ones(3)).result(timeout=60).status in ("ok", "late")
    assert pool.stats().batchers == 0


def test_many_callers_and_models_lose_nothing() -> None:
    seen: dict[int, list[tuple[int, int]]] = {i: [] for i in range(5)}

    def collect(i: int) -> Any:
        return lambda streams, y, status: seen[i].extend(zip(streams.tolist(), status.tolist(), strict=True))

    with rt.BatchWorkers(2) as pool:
        hubs = [rt.StreamBatcher(make(4 + i)[0], 2000, collect(i), workers=pool).start() for i in range(5)]
        counts = [[0, 0] for _ in hubs]

        def caller(i: int) -> None:
            for turn in range(400):
                came = hubs[i].put((7 * turn) % 40, torch.ones(3))
                counts[i][0] += came == "queued"
                counts[i][1] += came in ("replacing", "replaced")

        callers = [threading.Thread(target=caller, args=(i,)) for i in range(5)]
        for thread in callers:
            thread.start()
        for thread in callers:
            thread.join()
        for i, hub in enumerate(hubs):
            hub.stop()
            stats = hub.stats()
            assert stats.put == sum(counts[i])
            assert stats.replaced == counts[i][1]
            assert stats.answered == len(seen[i]) == counts[i][0]


def test_a_callback_that_holds_its_results_does_not_hold_other_models() -> None:
    (a, _), (b, _) = make(4), make(5)
    go = threading.Event()
    with (
        rt.BatchWorkers(1) as pool,
        rt.StreamBatcher(b, 300, workers=pool) as other,
        rt.StreamBatcher(a, 300, lambda *_: go.wait(60), workers=pool) as held,
    ):
        for _ in range(2000):
            if held.put(0, torch.ones(3)) == "full":
                break
            threading.Event().wait(0.001)
        else:
            pytest.fail("the results never piled up")
        assert other.put(1, torch.ones(3)).result(timeout=60).status in ("ok", "late")
        go.set()


def test_what_is_refused() -> None:
    live, _ = make(4)
    for cores in (0, 65, True, [], [-1], [0, "1"]):
        with pytest.raises(FormatError, match="BatchWorkers"):
            rt.BatchWorkers(cores)  # type: ignore[arg-type]
    with pytest.raises(FormatError, match="priority"):
        rt.BatchWorkers(1, priority=100)
    with pytest.raises(FormatError, match="workers="):
        rt.StreamBatcher(live, workers=3)  # type: ignore[arg-type]
    pool = rt.BatchWorkers(1)
    with pytest.raises(FormatError, match="cpu and workers"):
        rt.StreamBatcher(live, workers=pool, cpu=0)
    with rt.StreamBatcher(live, workers=pool) as hub:
        with pytest.raises(UnsupportedProblem, match="1 batchers that run"):
            pool.stop()
        assert pool.running
        assert hub.put(0, torch.ones(3)).result(timeout=60).status in ("ok", "late")
    pool.stop()
    pool.stop()
    with pytest.raises(FormatError, match="workers that run"):
        rt.StreamBatcher(live, workers=pool)


def test_a_core_that_there_is_not_is_said() -> None:
    with pytest.warns(UserWarning, match="core 4000"):
        rt.BatchWorkers([4000]).stop()


def test_batchers_and_workers_that_are_forgotten_end() -> None:
    pool = rt.BatchWorkers(2)
    hub = rt.StreamBatcher(make(4)[0], workers=pool).start()
    hub.put(0, torch.ones(3))
    del pool
    assert hub.put(1, torch.ones(3)).result(timeout=60).status in ("ok", "late")  # it holds its workers
    hub.stop()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_child_refuses_the_parents_workers() -> None:
    with rt.BatchWorkers(1) as pool:
        live, _ = make(4)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                rt.StreamBatcher(live, workers=pool)
            except FormatError:
                code = 0
            os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
