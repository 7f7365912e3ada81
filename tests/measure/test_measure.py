"""`measure` and `interleave` under a clock that the test drives: no assertion depends on the machine's speed."""

from __future__ import annotations

import dataclasses
import gc
import itertools
import json
import math
from collections.abc import Callable, Iterable
from importlib import metadata

import numpy as np
import pytest
import torch

import rtaccel as rt
import rtaccel.measure.latency
from rtaccel.core.errors import BudgetExceeded, FormatError
from rtaccel.measure.interleave import interleave
from rtaccel.measure.latency import measure
from rtaccel.measure.machine.environment import describe, environment
from rtaccel.measure.result import Latency


class Clock:
    """Nanoseconds that pass only when `wait` says so, plus `reading` for each time it is read."""

    def __init__(self, reading: int = 0) -> None:
        self.now = 1_000
        self.reading = reading

    def __call__(self) -> int:
        self.now += self.reading
        return self.now

    def wait(self, ns: int) -> None:
        self.now += ns

    def each(self, durations_ns: Iterable[int]) -> Callable[[], None]:
        waits = itertools.cycle(durations_ns)
        return lambda: self.wait(next(waits))


def test_every_call_is_timed_on_its_own_and_the_timer_is_not_subtracted() -> None:
    clock = Clock(reading=10)
    result = measure(clock.each([1_000, 2_000, 7_000]), samples=3, warmup=0, clock=clock)
    assert result.timer_ns == 10
    assert result.samples_us.tolist() == pytest.approx([2.01, 7.01, 1.01])  # the first went to the warm-up
    assert (result.n, result.min_us, result.p50_us, result.max_us) == (3, 1.01, 2.01, 7.01)
    assert result.verdict is None
    assert result.lines == ()
    assert result.samples_us.dtype == np.float32


def test_percentiles_are_ranks() -> None:
    clock = Clock()
    result = measure(clock.each(range(1_000, 1_001_000, 1_000)), samples=1_000, warmup=0, clock=clock)
    assert (result.p50_us, result.p90_us, result.p99_us, result.p999_us) == (500, 900, 990, 999)
    assert result.bounds["p50"][0] < 500 < result.bounds["p50"][1]
    assert result.bounds["p999"][1] is None


@pytest.mark.parametrize(
    ("limit_us", "slow_of_1000", "verdict"), [(50, 0, "PASS"), (50, 1, "PASS"), (50, 10, "UNDECIDED"), (50, 40, "FAIL")]
)
def test_verdicts(limit_us: float, slow_of_1000: int, verdict: str) -> None:
    clock = Clock()
    slow = {i * 1_000 // slow_of_1000 for i in range(slow_of_1000)}
    durations = [90_000 if i in slow else 10_000 for i in range(1_000)]
    result = measure(clock.each(durations), (), rt.Budget(p99_us=limit_us), samples=1_000, warmup=0, clock=clock)
    assert result.verdict == verdict
    assert [line.verdict for line in result.lines] == [verdict]


@pytest.mark.parametrize(
    ("call_us", "budget", "expected"),
    [
        (100, None, 5_000),  # half a second
        (100, rt.Budget(p999_us=500), 6_636),
        (1_000, rt.Budget(p99_us=5_000), 662),
        (1_000, rt.Budget(p999_us=5_000), 6_636),
        (1_000_000, rt.Budget(size_bytes=1), 1),
    ],
)
def test_default_number_of_samples(call_us: int, budget: rt.Budget | None, expected: int) -> None:
    clock = Clock()
    result = measure(clock.each([call_us * 1_000]), (), budget, clock=clock)
    assert result.n == expected
    assert not any("stopped" in note for note in result.notes)


def test_a_call_far_over_its_budget_still_ends_and_fails() -> None:
    clock = Clock()
    result = measure(clock.each([100_000_000]), (), rt.Budget(p99_us=50), clock=clock)
    assert result.n == 100  # ten seconds
    assert result.verdict == "FAIL"
    assert "stopped after 10 s with 100 of 662 samples" in result.notes


def test_too_slow_to_prove_is_undecided_with_the_number_missing() -> None:
    clock = Clock()
    result = measure(clock.each([100_000_000]), (), rt.Budget(p99_us=200_000), clock=clock)
    assert result.verdict == "UNDECIDED"
    assert "562 more" in result.lines[0].reason


def test_samples_and_seconds() -> None:
    clock = Clock()
    millisecond = clock.each([1_000_000])
    assert measure(millisecond, samples=40, clock=clock).n == 40
    assert measure(millisecond, seconds=0.25, clock=clock).n == 250
    assert measure(millisecond, samples=400, seconds=0.25, clock=clock).n == 250
    assert measure(millisecond, samples=100, seconds=0.25, clock=clock).n == 100
    assert measure(clock.each([3_000_000_000]), seconds=0.1, clock=clock).n == 1
    assert measure(clock.each([7_000_000_000]), samples=100, clock=clock).n == 9  # sixty seconds


@pytest.mark.parametrize(
    "bad",
    [
        {"samples": 0}, {"samples": -1}, {"samples": 1.5}, {"samples": True}, {"samples": 10**9}, {"seconds": 0},
        {"seconds": -1.0}, {"seconds": math.nan}, {"seconds": math.inf}, {"seconds": "1"}, {"warmup": -0.1},
        {"warmup": math.nan}, {"budget": {"p99_us": 50}}, {"error": -1.0}, {"size_bytes": -1}, {"fn": 3},
    ],
)  # fmt: skip
def test_arguments_that_make_no_sense_are_typed_errors(bad: dict[str, object]) -> None:
    with pytest.raises(FormatError, match=next(iter(bad))):
        measure(**({"fn": len, "inputs": ([],)} | bad))  # type: ignore[arg-type]


@pytest.mark.parametrize("enabled", [True, False])
def test_an_exception_goes_through_and_the_collector_is_as_before(enabled: bool) -> None:
    mine = ZeroDivisionError("mine")
    calls = []

    def fails_late() -> None:
        calls.append(gc.isenabled())
        if len(calls) == 5:
            raise mine

    before = gc.isenabled()
    try:
        gc.enable() if enabled else gc.disable()
        with pytest.raises(ZeroDivisionError) as caught:
            measure(fails_late, samples=100, warmup=0)
        assert gc.isenabled() is enabled
    finally:
        gc.enable() if before else gc.disable()
    assert caught.value is mine
    assert calls == [False] * 5


def test_collector_is_on_again_after_a_measurement() -> None:
    assert gc.isenabled()
    measure(len, ([],), samples=3)
    assert gc.isenabled()


def test_gradients_are_off_during_the_calls_only() -> None:
    seen: set[bool] = set()
    measure(lambda: seen.add(torch.is_grad_enabled()), samples=3)
    assert seen == {False}
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("inputs", [(torch.ones(2),), [torch.ones(2)], torch.ones(2)])
def test_inputs(inputs: object) -> None:
    model = torch.nn.Linear(2, 3)
    result = measure(model, inputs, samples=5)
    assert (result.n, result.name) == (5, "Linear")
    assert measure(lambda *args: None, samples=1, name="given").name == "given"


def test_size_comes_from_weight_bytes_only_when_the_budget_asks() -> None:
    class Model:
        weight_bytes = 640

        def __call__(self) -> None: ...

    class Method(Model):
        def weight_bytes(self) -> int:  # type: ignore[override]
            return 640

    for model in (Model(), Method()):
        result = measure(model, budget=rt.Budget(size_bytes=640), samples=2)
        assert (result.size_bytes, result.verdict) == (640, "PASS")
        assert measure(model, budget=rt.Budget(size_bytes=640), samples=2, size_bytes=641).verdict == "FAIL"
        assert measure(model, budget=rt.Budget(p99_us=50), samples=2).size_bytes is None
    assert measure(len, ([],), rt.Budget(size_bytes=640), samples=2).verdict == "UNDECIDED"


def test_raise_for_budget() -> None:
    clock = Clock()

    def result(limit: float, samples: int) -> Latency:
        fn = clock.each([10_000])
        return measure(fn, (), rt.Budget(p99_us=limit), samples=samples, clock=clock, name="mine")

    result(50, 662).raise_for_budget(strict=True)
    result(50, 600).raise_for_budget()
    with pytest.raises(BudgetExceeded, match="62 more"):
        result(50, 600).raise_for_budget(strict=True)
    with pytest.raises(BudgetExceeded, match=r"mine: got FAIL p99_us: 662 of 662"):
        result(5, 662).raise_for_budget()
    with pytest.raises(FormatError, match="budget"):
        measure(len, ([],), samples=2).raise_for_budget()


def test_a_result_is_frozen_and_its_samples_read_only() -> None:
    result = measure(len, ([],), samples=5)
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.p50_us = 0.0  # type: ignore[misc]
    with pytest.raises(ValueError, match="read-only"):
        result.samples_us[0] = 0
    assert "samples_us" not in repr(result)


def test_json_and_table() -> None:
    clock = Clock()
    budget = rt.Budget(p99_us=50, max_error=0.1)
    result = measure(clock.each([10_000, 20_000]), (), budget, samples=700, error=math.nan, name="mine", clock=clock)
    found = json.loads(result.to_json())
    assert (found["p50_us"], found["p99_us"], found["n"], found["verdict"]) == (10.0, 20.0, 700, "FAIL")
    assert found["budget"] == {"p99_us": 50, "max_error": 0.1}
    assert [line["verdict"] for line in found["lines"]] == ["PASS", "FAIL"]
    assert found["error"] is None  # JSON has no NaN
    assert "samples_us" not in found
    assert len(json.loads(result.to_json(samples=True))["samples_us"]) == 700
    text = str(result)
    assert all(part in text for part in ("mine", "700 calls", "p999", "<= 50 us", "PASS", "verdict: FAIL"))


def test_doubts_are_said() -> None:
    clock = Clock()
    drifting = measure(clock.each([10_000] * 500 + [12_000] * 500), samples=1_000, warmup=0, clock=clock)
    assert any("median moved" in note for note in drifting.notes)
    steady = measure(clock.each([10_000]), samples=1_000, clock=clock)
    assert steady.notes == ()
    slow_timer = Clock(reading=50)
    assert any("timer takes 50 ns" in n for n in measure(slow_timer.each([100]), samples=9, clock=slow_timer).notes)


def test_the_package_is_the_function() -> None:
    assert rt.measure is rtaccel.measure
    assert rt.measure(len, ([],), samples=3).n == 3
    assert rt.measure.latency.measure is measure
    assert rt.Budget is rtaccel.measure.budget.Budget


def test_environment_is_plain_json() -> None:
    record = json.loads(json.dumps(environment()))
    assert record["cores"] >= 1
    assert record["versions"]["torch"] == metadata.version("torch")
    assert record["torch_threads"] == torch.get_num_threads()
    rows = dict(describe(record))
    assert rows["python"] == record["python"]
    assert all(text for text in rows.values())


def test_interleaving_measures_everyone_in_every_round_in_changing_order() -> None:
    clock, order = Clock(), []

    def call(name: str, ns: int) -> Callable[[], None]:
        def run() -> None:
            order.append(name)
            clock.wait(ns)

        return run

    found = interleave(
        {"a": call("a", 2_000), "b": call("b", 3_000)}, rounds=20, calls_per_round=4, warmup=0, clock=clock
    )
    assert {name: samples.shape for name, samples in found.samples_us.items()} == {"a": (20, 4), "b": (20, 4)}
    assert found.median_us("a") == found.best_round_us("a") == 2.0
    rounds = [tuple(order[i : i + 10 : 5]) for i in range(2, len(order), 10)]  # after one warm-up call of each
    assert len(rounds) == 20
    assert set(rounds) == {("a", "b"), ("b", "a")}
    ratio = found.ratio("b", to="a")
    assert (ratio.value, ratio.low, ratio.high) == (1.5, 1.5, 1.5)


def test_ratio_is_blind_to_noise_that_both_meet() -> None:
    clock = Clock()
    rng = np.random.default_rng(3)
    load = [1]

    def call(ns: int, noise: float) -> Callable[[], None]:
        return lambda: clock.wait(int(ns * load[0] * (1 + noise * rng.random())))

    def heavier() -> None:  # the machine gets slower all the time
        load[0] += 1
        clock.wait(1)

    calls = {"a": call(10_000, 0.1), "same": call(10_000, 0.1), "b": call(13_000, 0.1), "heavier": heavier}
    found = interleave(calls, rounds=30, calls_per_round=1, warmup=0, clock=clock)
    same, slower = found.ratio("same", to="a"), found.ratio("b", to="a")
    assert same.low <= 1 <= same.high
    assert 1.15 < slower.low <= slower.value <= slower.high < 1.45
    assert "x (" in str(slower)


def test_interleave_refuses_nonsense() -> None:
    with pytest.raises(FormatError):
        interleave({})
    with pytest.raises(FormatError):
        interleave({"a": 3})  # type: ignore[dict-item]
    with pytest.raises(FormatError, match="rounds=0"):
        interleave({"a": len}, rounds=0)
    with pytest.raises(FormatError, match="'c'"):
        interleave({"a": lambda: None}, rounds=1, calls_per_round=1, warmup=0).median_us("c")
    with pytest.raises(KeyError):
        interleave({"a": lambda: {}["x"]}, rounds=1)
    assert gc.isenabled()
