"""Open loop, witness, cold caches, cold start, and the native loop; times are those of a clock that the test drives."""

from __future__ import annotations

import itertools
import json
import sys
import tracemalloc
from array import array
from functools import partial

import numpy as np
import pytest
import torch

import rtaccel as rt
from rtaccel import _native
from rtaccel.core.errors import FormatError
from rtaccel.measure.cold_start import cold_start
from rtaccel.measure.latency import measure
from rtaccel.measure.machine import witness
from rtaccel.measure.timing.sampler import Limits, Loop, sample

FOREVER = 2**62


class Clock:
    """Nanoseconds that pass when the test says so, and `reading` for each look at it."""

    def __init__(self, reading: int = 1) -> None:
        self.now, self.reading = 0, reading

    def __call__(self) -> int:
        self.now += self.reading
        return self.now

    def call(self, *lengths: int):
        each = itertools.cycle(lengths)

        def call() -> None:
            self.now += next(each)

        return call


def numbers(n: int) -> array:
    return array("q", bytes(8 * n))


def test_a_slow_call_delays_those_after_it_in_an_open_loop() -> None:
    clock = Clock()
    loop = Loop(clock.call(5_000, 1_000, 1_000, 1_000, 1_000), period_ns=2_000, clock=clock)
    taken = sample(loop, Limits(5, 5, 0, FOREVER))
    assert np.rint(np.array(taken) / 1_000).tolist() == [5, 4, 3, 2, 1]  # a closed loop would say 5, 1, 1, 1, 1
    closed = sample(Loop(clock.call(5_000, 1_000, 1_000, 1_000, 1_000), clock=clock), Limits(5, 5, 0, FOREVER))
    assert np.rint(np.array(closed) / 1_000).tolist() == [5, 1, 1, 1, 1]


@pytest.mark.parametrize("call_ns", [0, 1, 900, 100_000, 10_000_000])
def test_samples_are_the_same_however_long_a_call_was_thought_to_take(call_ns: float) -> None:
    """Memory for too few is taken for more on the way, and none is lost or counted twice."""
    clock = Clock(reading=0)
    lengths = [1_000 + i for i in range(7_000)]
    taken = sample(Loop(clock.call(*lengths), clock=clock), Limits(1, 50_000, 20_000_000, 20_000_000), call_ns)
    passed, wanted = 0, []
    for ns in itertools.cycle(lengths):
        wanted.append(ns)
        passed += ns
        if passed >= 20_000_000:
            break
    assert taken.tolist() == wanted
    few = sample(Loop(clock.call(10), clock=clock), Limits(1, 5_000, 20_000_000, 20_000_000), call_ns)
    assert few.tolist() == [10] * 5_000  # never more than the limit


def test_open_loop_says_its_mode_and_the_late_calls() -> None:
    clock = Clock()
    found = measure(clock.call(*[1_000] * 99, 20_000), samples=1_000, period_us=2, warmup=0, clock=clock)
    assert found.mode == "warm, open loop, a call each 2 us"
    assert any("calls began late" in note for note in found.notes)
    assert found.mode in str(found)
    assert json.loads(found.to_json())["mode"] == found.mode
    overloaded = measure(clock.call(3_000), (), rt.Budget(p99_us=50), samples=1_000, period_us=2, clock=clock)
    assert overloaded.verdict != "PASS"  # the queue grows: the last calls wait for hundreds of others
    assert overloaded.max_us == pytest.approx(1_000 + 2, rel=0.05)


def test_native_open_loop_keeps_its_intended_starts() -> None:
    starts = numbers(50)
    place = itertools.count()

    def call() -> None:
        starts[next(place)] = _native.now_ns()

    out, first = numbers(50), _native.now_ns() + 2_000_000
    assert _native.time_prepared_calls(call, (), out, 0, 50, FOREVER, None, first, 100_000, 0, None) == 50
    late = np.array(starts) - (first + 100_000 * np.arange(50))
    assert (late >= 0).all()
    assert (np.array(out) >= late).all()
    assert late[0] < 10**10


def test_what_comes_before_a_call_is_not_in_its_time() -> None:
    clock = Clock(reading=0)

    def before() -> tuple[int]:
        clock.now += 7_000
        return (3,)

    seen = []

    def call(x: int) -> None:
        seen.append(x)
        clock.now += 100

    assert set(sample(Loop(call, (1,), before, clock=clock), Limits(9, 9, 0, FOREVER))) == {100}
    assert seen == [3] * 9


def test_the_native_loop_calls_as_python_does() -> None:
    seen: list[tuple[int, ...]] = []
    out = numbers(8)
    assert _native.time_calls(lambda *args: seen.append(args), (1, 2, 3), out, 2, 6, FOREVER) == 6
    assert seen == [(1, 2, 3)] * 4
    assert list(out[:2]) == list(out[6:]) == [0, 0]
    assert min(out[2:6]) > 0
    assert _native.time_calls(seen.append, ((),), out, 0, 8, 0) == 1  # the deadline is over, and one call is made
    fresh = iter([(5,), None, (6,)])
    seen.clear()
    _native.time_prepared_calls(lambda *a: seen.append(a), (4,), out, 0, 3, FOREVER, fresh.__next__, 0, 0, 0, None)
    assert seen == [(5,), (5,), (6,)]
    method = [].append
    count = sys.getrefcount(method)
    _native.time_calls(method, (1,), out, 0, 8, FOREVER)
    assert sys.getrefcount(method) == count


@pytest.mark.parametrize("out", [array("q", bytes(8)), array("d", bytes(64)), bytes(64), array("i", bytes(64)), None])
def test_samples_that_do_not_fit_are_refused(out: object) -> None:
    with pytest.raises((ValueError, BufferError, TypeError)):
        _native.time_calls(len, ([],), out, 0, 8, FOREVER)
    with pytest.raises(ValueError, match="int64"):
        _native.time_calls(len, ([],), numbers(8), -1, 8, FOREVER)


def test_what_prepares_a_call_returns_a_tuple_or_nothing() -> None:
    with pytest.raises(TypeError, match="tuple"):
        _native.time_prepared_calls(len, ([],), numbers(1), 0, 1, FOREVER, lambda: [1], 0, 0, 0, None)


def test_timing_a_call_allocates_nothing() -> None:
    out = numbers(20_000)
    _native.time_calls(_native.nothing, (), out, 0, 20_000, FOREVER)
    tracemalloc.start()
    try:
        _native.time_calls(_native.nothing, (), out, 0, 1, FOREVER)
        tracemalloc.reset_peak()
        base = tracemalloc.get_traced_memory()[0]
        _native.time_calls(_native.nothing, (), out, 0, 20_000, FOREVER)
        peak = tracemalloc.get_traced_memory()[1] - base
    finally:
        tracemalloc.stop()
    assert peak < 512  # the arguments of the one call to the loop, and nothing per call timed


def test_a_bound_model_is_timed_inside_the_core() -> None:
    model = torch.nn.Linear(8, 4).eval()
    x, y = torch.randn(1, 8), torch.full((1, 4), torch.nan)
    step = rt.compile(model, (x,)).bind(x, out=y)
    out = numbers(100)
    assert step.time(out, 0, 100, FOREVER) == 100
    assert min(out) > 0
    torch.testing.assert_close(y, model(x).detach())
    assert step.time(out, 0, 100, 0) == 1
    with pytest.raises(ValueError, match="int64"):
        step.time(out, 0, 101, FOREVER)
    y.fill_(torch.nan)
    found = measure(step, samples=50, inside=True)
    assert (found.n, found.mode) == (50, "inside the core")
    torch.testing.assert_close(y, model(x).detach())
    for fn, inputs, more in (
        (len, ([],), {}),
        (step, (x,), {}),
        (step, (), {"witness": True}),
        (step, (), {"setup": tuple}),
    ):
        with pytest.raises(FormatError, match="inside=True"):
            measure(fn, inputs, samples=5, inside=True, **more)  # type: ignore[arg-type]


def test_cold_caches_read_more_than_they_hold_before_each_call(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    monkeypatch.setattr(_native, "read_lines", lambda buffer: sizes.append((len(buffer), bytes(buffer[:: 1 << 22]))))
    found = measure(len, ([],), samples=3, warmup=0, cold_cache=True)
    assert found.mode == "cold caches"
    assert sizes == [(64 << 20, b"\1" * 16)] * 4
    found = measure(len, samples=3, warmup=0, cold_cache=True, setup=lambda: ([],))
    assert len(sizes) == 8


def test_reading_lines_takes_any_buffer() -> None:
    _native.read_lines(bytearray(b"\1") * 1_000)
    with pytest.raises(TypeError):
        _native.read_lines(3)


def test_a_fixed_spin_takes_longer_when_it_is_longer() -> None:
    def least(iterations: int) -> int:
        out = numbers(50)
        _native.time_calls(_native.spin, (iterations,), out, 0, 50, FOREVER)
        return min(out)

    assert 5 < least(200_000) / least(10_000) < 80
    assert witness.chain_iterations(20_000) > 100
    assert least(witness.chain_iterations(100_000)) > 20_000


def log(ends: list[int], switches: list[int], steal: list[float]) -> witness._Log:
    return witness._Log(ends, switches, steal)


def test_misses_are_attributed_by_switches_steal_and_witness() -> None:
    """Eight windows of 100 calls. A miss in each; the machine was disturbed in some."""
    samples, spins = np.full(800, 10.0), np.full(800, 10.0)
    samples[50::100] = 90.0
    spins[130] = 60.0  # window 1: as late as a call would need to be
    spins[640] = 40.0  # window 6: late, but not so late
    ends, switches, steal = list(range(100, 900, 100)), [0, 0, 0, 0, 3, 0, 0, 0], [0.0] * 8

    def judged(**limits: float) -> witness.Witness:
        return witness.judge(samples, spins, log(ends, switches, steal), rt.Budget(**limits))

    found = judged(p50_us=1, p99_us=50)
    p50, p99 = found.misses
    assert (p99.raw, p99.attributed, p99.unattributed) == (8, 2, 6)  # the one in window 1, and the switch in 4
    assert (p50.raw, p50.attributed) == (800, 0)  # the usual call is over the limit: no noise explains it
    assert (found.windows, found.switches, found.steal_ms) == (8, 3, 0.0)
    spins[131:133] = 60.0  # three late witnesses in window 1 explain the misses beside it too, and no more
    assert judged(p99_us=50).misses[0].attributed == 4
    samples[110:115] = 90.0  # six misses in window 1 and three late witnesses
    assert judged(p99_us=50).misses[0].attributed == 4
    steal[7] = 10.0
    found = judged(p99_us=50)
    assert found.misses[0].attributed == 6
    assert "13 calls over 50 us, 6 of them with the machine disturbed, 7 without" in str(found)
    steal[3] = float("nan")
    assert witness.judge(samples, spins, log([400, 800], [0, 0], [float("nan"), 0.0]), None).steal_ms is None


def test_a_witness_leaves_the_verdict_on_all_misses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(witness, "_steal_ms", itertools.count().__next__)  # every window is disturbed
    clock = Clock()
    slow = [90_000 if i % 20 == 0 else 10_000 for i in range(1_000)]
    found = measure(clock.call(*slow), (), rt.Budget(p99_us=50), samples=1_000, warmup=0, witness=True, clock=clock)
    assert found.verdict == "FAIL"
    assert found.n == 1_000
    assert found.witness is not None
    misses = found.witness.misses[0]
    assert misses.raw == misses.attributed
    assert 49 <= misses.raw <= 51  # each window opens with a call that is not counted
    record = json.loads(found.to_json())["witness"]
    assert record["misses"][0] == vars(misses) | {"unattributed": 0}
    assert "witness: p50" in str(found)


def test_a_witness_runs_before_each_call_and_its_time_is_kept() -> None:
    found = measure(partial(_native.busy, 20_000), (), rt.Budget(p50_us=10), samples=600, witness=True)
    assert found.verdict == "FAIL"
    assert found.witness is not None
    assert len(found.witness.samples_us) == found.n == 600
    assert found.witness.p50_us > 1
    assert found.witness.windows >= 3


def test_cold_start_runs_in_processes_of_its_own() -> None:
    found = cold_start(
        "import json, os; calls = []",
        "calls.append(os.getpid()); json.dumps(calls)",
        rt.Budget(p50_us=1e9),
        processes=3,
    )
    assert found.first.n == 3
    assert found.first.mode == "cold start"
    assert found.first.verdict == "UNDECIDED"
    assert "needs 11: 8 more" in found.first.lines[0].reason
    assert (found.process_us > found.setup_us).all()
    assert found.second_us.shape == (3,)
    assert "medians: setup" in str(found)


@pytest.mark.parametrize(
    ("setup", "call", "says"),
    [
        ("import json", "raise ValueError('mine')", "ValueError: mine"), ("x =", "pass", "setup"), ("", "1 +", "call"),
        ("import os; os._exit(0)", "pass", "ended with 0"), ("import nowhere", "pass", "No module named 'nowhere'"),
    ],
)  # fmt: skip
def test_a_cold_start_that_fails_is_a_typed_error(setup: str, call: str, says: str) -> None:
    with pytest.raises(FormatError, match=says):
        cold_start(setup, call, processes=1)


def test_cold_start_refuses_nonsense() -> None:
    for bad in ({"processes": 0}, {"processes": 1.5}, {"seconds": 0.0}):
        with pytest.raises(FormatError, match="processes"):
            cold_start("", "pass", **bad)  # type: ignore[arg-type]
