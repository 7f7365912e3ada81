"""From the stamp of an input to its published result; and the scheduling of a plan's threads."""

from __future__ import annotations

import os
import time
import warnings
from pathlib import Path

import pytest
import torch

import rtaccel as rt


def wait_for(done: object, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not done():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.001)


def test_each_new_input_counts_once_from_its_stamp() -> None:
    fast = rt.compile(torch.nn.Linear(3, 2).eval(), (torch.randn(1, 3),))
    x, y = rt.Latest((3,)), rt.Latest((2,))
    with rt.Loop(
        fast, read=x, write=y, period_us=1000, deadline_us=1000, max_age_us=1e9, on_miss="late", spin_us=0
    ) as loop:
        for number in range(1, 6):
            x.put(torch.ones(3), stamp_ns=time.monotonic_ns() - 50_000_000)
            wait_for(lambda n=number: loop.stats().fresh - loop.stats().repeated >= n)
        wait_for(lambda: loop.stats().repeated > 3)
    found = loop.stats()
    assert found.latency.n == found.fresh - found.repeated == 5
    assert found.latency.buckets[0][0] >= 50_000
    assert found.latency.max_us >= found.latency.p50_us >= 50_000


def test_in_simulated_time_it_is_exact() -> None:
    x, y = rt.Latest((2,), "int64"), rt.Latest((2,), "int64")
    world = rt.realtime.Simulation(x, seed=3, produce_us=1500, p_gap=0.02, gap_us=30_000)
    loop = rt.Loop(world.model(), read=x, write=y, max_age_us=4000, deadline_us=1000, simulation=world)
    loop.run(20_000)
    found = loop.stats()
    assert found.stale > 0
    assert found.held > 0
    assert found.latency.n == found.fresh - found.repeated
    # A cycle comes within a period of the input, and its result within the deadline.
    assert found.latency.max_us <= 4000 + 1000
    assert found.latency.mean_us <= found.age.mean_us + found.work.max_us


def policies() -> dict[int, int]:
    return {int(t.name): os.sched_getscheduler(int(t.name)) for t in Path("/proc/self/task").iterdir()}


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core")
def test_threads_of_a_plan_have_the_priority_of_its_loop() -> None:
    before = set(policies())
    fast = rt.compile(torch.nn.Linear(2048, 2048).eval(), (torch.randn(1, 2048),), threads=2)
    own = set(policies()) - before
    assert own
    x, y = rt.Latest((2048,)), rt.Latest((2048,))
    loop = rt.Loop(fast, read=x, write=y, period_us=20_000, deadline_us=20_000, spin_us=0, warm=False, priority=5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is not allowed is skipped below
        loop.start()
    try:
        if not loop.stats().fifo:
            pytest.skip("SCHED_FIFO is not allowed here")
        found = policies()
        assert all(found[thread] == os.SCHED_FIFO for thread in own)
    finally:
        loop.stop()
