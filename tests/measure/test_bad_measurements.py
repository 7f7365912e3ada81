"""What cannot be measured, or must not be believed: a typed error or an honest verdict, never a PASS by accident."""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial

import numpy as np
import pytest
import torch

import rtaccel as rt
from rtaccel.core.errors import FormatError
from rtaccel.measure.interleave import compare
from rtaccel.measure.latency import measure
from rtaccel.measure.machine.memory import peak_memory
from rtaccel.measure.timing.inputs import fingerprint
from rtaccel.measure.timing.sampler import Loop, warm_up_until_steady

WIDE = rt.Budget(p99_us=1e9)


def waiting(call_ns: int) -> tuple[Callable[[], None], Callable[[], int]]:
    """A call of this length, and the clock that it moves."""
    now = [0]

    def call(*args: object) -> None:
        now[0] += call_ns

    return call, lambda: now[0]


@pytest.mark.parametrize("warmup", [0, 0.1])
def test_a_clock_that_stands_still_is_refused(warmup: float) -> None:
    with pytest.raises(FormatError, match=r"clock.*default clock"):
        measure(len, ([],), WIDE, samples=700, warmup=warmup, clock=lambda: 42)
    with pytest.raises(FormatError, match="clock"):
        compare(lambda: None, lambda: None, seconds=0.1, clock=lambda: 42)


def test_a_clock_that_goes_backwards_is_refused() -> None:
    steps = itertools.cycle([9_000, -1_000, -1_000])
    now = [0]

    def clock() -> int:
        now[0] += next(steps)
        return now[0]

    with pytest.raises(FormatError, match="clock"):
        measure(len, ([],), WIDE, samples=101, warmup=0, clock=clock)


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, SystemExit, rt.ShapeError])
@pytest.mark.parametrize("how", [{}, {"witness": True}, {"period_us": 1.0}, {"setup": lambda: ()}])
def test_what_a_callable_raises_goes_through(kind: type[BaseException], how: dict[str, object]) -> None:
    mine = kind("op", "got", "expected", "next") if kind is rt.ShapeError else kind("mine")
    calls = []

    def fails_late() -> None:
        calls.append(0)
        if len(calls) == 9:
            raise mine

    with pytest.raises(kind) as caught:
        measure(fails_late, samples=100, warmup=0, **how)  # type: ignore[arg-type]
    assert caught.value is mine
    assert len(calls) == 9


async def _coroutine() -> int:
    return 1


async def _async_generator() -> AsyncIterator[int]:
    yield 1


def _generator() -> Iterator[int]:
    yield 1


class _Served:
    async def __call__(self) -> int:
        return 1

    def step(self) -> Iterator[int]:
        yield 1


NOTHING_RAN: dict[str, Callable[[], object]] = {
    "async": _coroutine, "async generator": _async_generator, "generator": _generator, "partial": partial(_coroutine),
    "lambda": lambda: _coroutine(), "expression": lambda: (i for i in range(3)), "object": _Served(), "method": _Served().step,
}  # fmt: skip


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", NOTHING_RAN)
def test_a_call_that_runs_nothing_is_not_timed(name: str) -> None:
    fn = NOTHING_RAN[name]
    refused = pytest.raises(FormatError, match=r"a callable that returns a .*has done its work.*lambda:")
    for how in ({}, {"warmup": 0}, {"period_us": 1e3}, {"setup": tuple}, {"witness": True}, {"error": lambda y: 0.0}):
        with refused:
            measure(fn, budget=WIDE, samples=700, **how)  # type: ignore[arg-type]
    with refused:
        measure(fn, budget=WIDE, samples=2, clock=time.perf_counter_ns)
    with refused:
        compare(fn, lambda: None, seconds=0.1)
    with refused:
        peak_memory(fn)
    assert measure(lambda: asyncio.run(_coroutine()), samples=2).samples_us is not None
    assert measure(lambda: list(_generator()), samples=2).samples_us is not None


@pytest.mark.parametrize("argument", ["error", "metric"])
def test_nothing_returned_is_nothing_to_score(argument: str) -> None:
    with pytest.raises(FormatError, match=f"returns None.*{argument}"):
        measure(lambda: None, samples=3, **{argument: lambda result: 0.0})
    with pytest.raises(FormatError, match=f"{argument}= that returned Tensor"):
        measure(lambda: torch.ones(2), samples=3, **{argument: lambda result: result})
    with pytest.raises(FormatError, match=f"{argument}= that returned NoneType"):
        measure(lambda: 1, samples=3, **{argument: lambda result: None})


def test_error_and_metric_are_judged_with_the_latency_and_both_must_hold() -> None:
    x = torch.tensor([1.0, 2.0])
    budget = rt.Budget(p99_us=1e9, max_error=0.5, min_metric=0.9)

    def verdict(error: object, metric: object) -> str | None:
        found = measure(torch.sqrt, x, budget, samples=662, error=error, metric=metric)  # type: ignore[arg-type]
        assert found.lines[0].verdict == "PASS"
        assert found.lines[1].value == pytest.approx(found.error, nan_ok=True)
        assert found.lines[2].value == found.metric
        return found.verdict

    def largest(y: torch.Tensor) -> float:
        return float((y - x.sqrt()).abs().max())

    assert verdict(largest, lambda y: 0.95) == "PASS"
    assert verdict(largest, 0.9) == "PASS"
    assert verdict(lambda y: largest(y) + 0.6, 0.95) == "FAIL"
    assert verdict(0.1, lambda y: 0.89) == "FAIL"
    assert verdict(math.nan, 0.95) == "FAIL"
    assert verdict(0.1, None) == "UNDECIDED"
    with pytest.raises(FormatError, match="0 or above"):
        verdict(lambda y: -1.0, 0.95)


def test_inputs_that_each_call_changes_pass_nothing() -> None:
    budget = rt.Budget(p99_us=1e9, size_bytes=10)
    growing = measure(lambda xs: xs.append(0), ([1],), budget, samples=700, size_bytes=5)
    assert [line.verdict for line in growing.lines] == ["UNDECIDED", "PASS"]
    assert any("no two calls had the same" in note and "setup=" in note for note in growing.notes)
    assert measure(lambda x: x.add_(1), torch.zeros(3), WIDE, samples=700).verdict == "UNDECIDED"
    assert measure(lambda x: x.add_(1), torch.zeros(3), rt.Budget(p99_us=1e-9), samples=700).verdict == "FAIL"


def test_inputs_that_settle_are_said() -> None:
    sorting = measure(lambda xs: xs.sort(), ([3, 1, 2],), WIDE, samples=700)
    assert sorting.verdict == "PASS"
    assert any("had the inputs that it leaves" in note for note in sorting.notes)
    out = measure(lambda x, y: torch.add(x, 1, out=y), (torch.ones(2), torch.empty(2)), WIDE, samples=700)
    assert out.verdict == "PASS"


def test_setup_gives_every_call_inputs_of_its_own() -> None:
    seen: list[list[int]] = []

    def call(xs: list[int]) -> None:
        seen.append(list(xs))
        xs.sort()

    found = measure(call, budget=WIDE, samples=700, warmup=0, setup=lambda: ([3, 1, 2],))
    assert found.verdict == "PASS"
    assert not any("changes its inputs" in note for note in found.notes)
    assert len(seen) == 701
    assert all(xs == [3, 1, 2] for xs in seen)
    with pytest.raises(TypeError, match="no setup"):
        measure(len, samples=2, setup=lambda: (_ for _ in ()).throw(TypeError("no setup")))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (torch.zeros(3), torch.tensor([0.0, 0.0, -0.0])), (np.zeros((2, 3)), np.ones((2, 3))), ([1, [2]], [1, [3]]),
        ({"a": 1}, {"a": 2}), (1.0, 1), ("a", "b"), (bytearray(b"ab"), bytearray(b"ac")), (None, 0), ((), []),
        (torch.zeros(2, 3), torch.zeros(2, 3).bfloat16()), (np.zeros(4)[::2], np.array([0.0, 1.0])),
    ],
)  # fmt: skip
def test_fingerprints_tell_contents_apart(one: object, other: object) -> None:
    assert fingerprint((one,)) == fingerprint((one,))
    assert fingerprint((one,)) != fingerprint((other,))


def test_fingerprints_survive_anything() -> None:
    loop: list[object] = []
    loop.append(loop)
    sparse = torch.eye(3).to_sparse()
    for value in (
        loop,
        object(),
        sparse,
        torch.ones(2, dtype=torch.complex64).conj(),
        torch.empty(0),
        np.zeros((0, 3)),
        print,
    ):
        assert fingerprint(value) == fingerprint(value)


def test_a_call_longer_than_everything_is_measured_once_and_says_so() -> None:
    call, clock = waiting(30_000_000_000)
    found = measure(call, (), rt.Budget(p99_us=50), clock=clock)
    assert (found.n, found.verdict) == (1, "UNDECIDED")  # one call never decides
    assert any("stopped after 10 s with 1 of 662 samples" in note for note in found.notes)
    found = measure(call, (), rt.Budget(p99_us=50), samples=5, clock=clock)
    assert (found.n, found.verdict) == (2, "FAIL")


@pytest.mark.parametrize(
    ("budget", "n", "needs"), [({"p50_us": 9}, 10, 11), ({"p99_us": 9}, 661, 662), ({"p999_us": 9}, 6_635, 6_636)]
)
def test_fewer_samples_than_a_percentile_needs(budget: dict[str, float], n: int, needs: int) -> None:
    call, clock = waiting(1_000)
    found = measure(call, (), rt.Budget(**budget), samples=n, clock=clock)
    assert found.verdict == "UNDECIDED"
    assert f"needs {needs:,}: 1 more" in found.lines[0].reason
    assert found.lines[0].needed is not None
    assert found.lines[0].needed >= needs
    assert measure(call, (), rt.Budget(**budget), samples=needs, clock=clock).verdict == "PASS"


@pytest.mark.parametrize(
    "bad",
    [
        {"period_us": 0}, {"period_us": -1}, {"period_us": math.nan}, {"period_us": "1"}, {"setup": 3},
        {"metric": "0.9"}, {"error": True},
    ],
)  # fmt: skip
def test_options_that_make_no_sense(bad: dict[str, object]) -> None:
    with pytest.raises(FormatError, match=next(iter(bad))):
        measure(len, ([],), samples=2, **bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("other", ["witness", "cold_cache"])
def test_an_open_loop_has_nothing_that_takes_time_between_calls(other: str) -> None:
    with pytest.raises(FormatError, match=f"period_us with {other}"):
        measure(len, ([],), samples=2, period_us=10, **{other: True})  # type: ignore[arg-type]


def test_of_a_long_tensor_both_ends_are_looked_at() -> None:
    long = torch.zeros(6 << 20)
    before = fingerprint(long)
    for place in (0, -1):
        long[place] = 1
        assert fingerprint(long) != before
        long[place] = 0
    assert fingerprint(long) == before
    assert fingerprint(torch.zeros(3, 4).t()) != fingerprint(torch.ones(3, 4).t())


def test_warming_up_goes_on_until_calls_are_steady() -> None:
    now = [0]
    lengths = itertools.chain(range(4_000_000, 1_000_000, -20_000), itertools.repeat(1_000_000))

    def call() -> None:
        now[0] += next(lengths)

    last_ns, said = warm_up_until_steady(Loop(call, clock=lambda: now[0]), 0.2)
    assert said is None
    assert last_ns < 1_100_000
    assert 0.35e9 < now[0] < 1e9


def test_a_warm_up_that_never_ends_is_said() -> None:
    now, step = [0], [100_000.0]

    def call() -> None:
        step[0] *= 1.001
        now[0] += int(step[0])

    found = measure(call, budget=WIDE, samples=700, warmup=0.1, clock=lambda: now[0])
    assert any("no steady state within 0.5 s" in note for note in found.notes)


def test_a_default_measurement_goes_on_until_its_dependent_calls_are_worth_enough() -> None:
    """A millisecond a call, and bursts of eight calls near the limit: 662 of them prove nothing, eight times as many do."""
    now = [0]
    lengths = itertools.cycle([1_700_000] * 8 + [1_000_000] * 92)

    def call() -> None:
        now[0] += next(lengths)

    found = measure(call, (), rt.Budget(p99_us=2_000), warmup=0, clock=lambda: now[0])
    assert found.verdict == "PASS"
    assert 5 * 662 < found.n <= 20 * 662
    assert found.lines[0].effective is not None
    assert found.lines[0].effective >= 662
    asked = measure(call, (), rt.Budget(p99_us=2_000), samples=662, warmup=0, clock=lambda: now[0])
    assert (asked.n, asked.verdict) == (662, "UNDECIDED")
    slower = itertools.cycle([17_000_000] * 8 + [10_000_000] * 92)

    def slow() -> None:
        now[0] += next(slower)

    cut = measure(slow, (), rt.Budget(p99_us=20_000), warmup=0, clock=lambda: now[0])
    assert cut.verdict == "UNDECIDED"
    assert 900 < cut.n < 1_000  # ten seconds
