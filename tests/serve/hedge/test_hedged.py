"""The remote's answer or the local one's, on a clock that the test turns."""

from __future__ import annotations

import random
import threading
import time
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import rtaccel as rt
from rtaccel.core.errors import FormatError, ShapeError
from rtaccel.serve.hedge import Breaker, RetryBudget
from rtaccel.serve.remote import Endpoint, Inside, Remote


class Clock:
    def __init__(self) -> None:
        self.ns = 1_000_000

    def __call__(self) -> int:
        return self.ns


class Plan:
    """A remote whose answer to each request comes after a planned time: microseconds, None: never, "error", or several times."""

    def __init__(self, clock: Clock, delays: Any) -> None:
        self.clock, self.delays, self.coming, self.posted = clock, iter(delays), [], 0  # type: ignore[var-annotated]

    def post(self, x: int) -> int:
        self.posted += 1
        delay = next(self.delays)
        if delay == "down":
            raise ConnectionResetError
        for one in delay if isinstance(delay, tuple) else (delay,):
            if one is not None:
                late = 0 if one == "error" else int(one * 1000)
                self.coming.append((self.clock.ns + late, self.posted, None if one == "error" else ("remote", x)))
        self.coming.sort(key=lambda c: c[0])
        return self.posted

    def take(self, timeout_s: float) -> tuple[int, Any] | None:
        end = self.clock.ns + round(timeout_s * 1e9)
        if self.coming and self.coming[0][0] <= end:
            at, number, answer = self.coming.pop(0)
            self.clock.ns = max(self.clock.ns, at)
            return number, answer
        self.clock.ns = end
        return None


def hedged(delays: Any, local_us: float = 10, **said: Any) -> tuple[rt.Hedged, Clock]:
    clock = Clock()

    def local(x: int) -> tuple[str, int]:
        clock.ns += int(local_us * 1000)
        return "local", x

    settings_ = {"deadline_us": 1000, "margin_us": 0, "retries": RetryBudget(0), "breaker": Breaker(1, 10**6), **said}
    return rt.Hedged(local, Plan(clock, delays), clock=clock, **settings_), clock


def test_in_time_late_and_lost() -> None:
    model, clock = hedged([500, 1500, None, 5, 1000])
    found = []
    for i in range(5):
        start = clock.ns
        y = model(i)
        assert y == (model.source, i)
        assert clock.ns - start <= 1_000_000
        found.append(model.source)
    assert found == ["remote", "local", "local", "remote", "remote"]
    stats = model.stats()
    assert (stats.calls, stats.remote, stats.local, stats.late, stats.overrun) == (5, 3, 2, 1, 0)


@given(st.lists(st.sampled_from([1, 300, 700, 999, 1001, 2500, None, "error", "down", (1, 1), (900, 2500)]), max_size=60),
       st.floats(0, 1500), st.sampled_from([0.0, 0.1, 1.0]), st.sampled_from([0.2, 1.0]))  # fmt: skip
@settings(deadline=None, max_examples=300)
def test_no_answer_is_another_calls_or_older_than_the_deadline(
    delays: list[Any], local_us: float, retry: float, share: float
) -> None:
    model, clock = hedged(
        delays * 3 + [None] * 60, local_us, retries=RetryBudget(retry), breaker=Breaker(share, 5, 3000)
    )
    for i in range(len(delays)):
        start = clock.ns
        y = model(i)
        assert y == (model.source, i)
        if model.source == "remote":
            assert clock.ns - start <= 1_000_000
        else:
            assert clock.ns - start <= max(1_000_000, local_us * 1000)
        clock.ns += 50_000
    stats = model.stats()
    assert stats.calls == stats.remote + stats.local == len(delays)
    assert stats.retries <= retry * (stats.sent - stats.retries) + 1e-9
    assert stats.remote <= stats.sent <= model.remote.posted
    assert stats.overrun == 0 or local_us > 1000


def test_a_fifth_lost() -> None:
    rng, lost = random.Random(5), 0

    def delays() -> Any:
        nonlocal lost
        while True:
            gone = rng.random() < 0.2
            lost += gone
            yield None if gone else rng.uniform(50, 900)

    model, clock = hedged(delays(), breaker=Breaker())
    ages = []
    for i in range(20_000):
        start = clock.ns
        model(i)
        ages.append(clock.ns - start)
    stats = model.stats()
    assert max(ages) <= 1_000_000
    assert stats.local == lost + stats.held_back
    assert stats.local_share <= 0.2 + 0.01
    assert stats.opened == 0


def test_a_request_is_sent_again_within_its_budget() -> None:
    model, _ = hedged([None, 100] * 100, retries=RetryBudget(1, most=2))
    assert [model(i)[0] for i in range(50)] == ["remote"] * 50
    assert model.stats().retries == 50
    model, _ = hedged([None] * 200, retries=RetryBudget(0.1))
    for i in range(100):
        model(i)
    assert model.stats().retries == 10


def test_the_first_answer_counts_where_both_come() -> None:
    model, _ = hedged([600, 100, 5], retries=RetryBudget(1))
    assert [model(i) for i in range(2)] == [("remote", 0), ("remote", 1)]
    assert model.stats().late == 0 or model.stats().late == 1


def test_the_breaker_opens_tries_and_closes() -> None:
    asked = []

    def delays() -> Any:
        while True:
            asked.append(len(asked))
            yield None if len(asked) <= 12 else 10

    model, _ = hedged(delays(), breaker=Breaker(0.5, 10, cooldown_us=50))
    sources = [model(i)[0] for i in range(100)]
    stats = model.stats()
    assert stats.opened == 1
    assert stats.held_back > 10
    assert sources[:12].count("remote") == 0
    assert sources[-20:] == ["remote"] * 20
    assert stats.sent + stats.held_back == 100
    gone, _ = hedged(["down"] * 100, breaker=Breaker(0.5, 4, cooldown_us=1e9))
    assert [gone(i)[0] for i in range(20)] == ["local"] * 20
    assert (gone.stats().failed, gone.stats().held_back) == (4, 16)


def test_a_slow_local_model_is_said() -> None:
    model, _ = hedged([None, 3], local_us=1200)
    assert model(0)[0] == "local"
    assert model.stats().overrun == 1
    assert model(1)[0] == "local"  # the remote's answer is as old as the local one: neither is in time
    assert model.stats().late == 1


def test_an_error_of_the_remote_does_not_wait() -> None:
    model, clock = hedged(["error"])
    start = clock.ns
    assert model(0) == ("local", 0)
    assert clock.ns - start < 100_000
    assert model.stats().failed == 1


def test_a_function_in_threads() -> None:
    free = threading.Event()

    def remote(x: int) -> int:
        if x == 1:
            free.wait(60)
        if x == 2:
            raise ValueError("no")
        return 10 * x

    with rt.Hedged(lambda x: -x, remote, deadline_us=30e6, breaker=Breaker(1, 100)) as model:
        assert (model(3), model.source) == (30, "remote")
        assert (model(2), model.source) == (-2, "local")
        model._wait_ns = int(5e6)
        assert (model(1), model.source) == (-1, "local")
        free.set()
        end = time.monotonic() + 60
        while model.stats().late == 0 and time.monotonic() < end:
            model(2)
        assert model.stats().late == 1


def test_over_a_real_remote() -> None:
    torch.manual_seed(1)
    big, small = (rt.compile(nn.Linear(6, 2).eval(), torch.zeros(1, 6)) for _ in range(2))
    endpoint = Endpoint(big, (torch.zeros(1, 6),))
    remote = Remote(Inside(endpoint), [((1, 6), "float32")], [((1, 2), "float32")], endpoint.digest)
    model, x = rt.Hedged(small, remote, deadline_us=30e6), torch.randn(1, 6)
    assert torch.equal(model(x), big(x)) and model.source == "remote"
    with pytest.raises(ShapeError):
        model(torch.randn(1, 7))
    assert model.stats().calls == 1
    remote._transport.endpoint = Endpoint(small, (torch.zeros(1, 6),))  # another model is there now
    quick = rt.Hedged(small, remote, deadline_us=2000)
    assert torch.equal(quick(x), small(x)) and quick.source == "local"


def test_settings_that_there_are_not() -> None:
    for said in (
        {"deadline_us": 0}, {"deadline_us": float("nan")}, {"deadline_us": "1"}, {"margin_us": 1000}, {"margin_us": -1},
        {"retry_after_us": 0}, {"local": 5}, {"remote": 5},
    ):  # fmt: skip
        with pytest.raises(FormatError):
            rt.Hedged(**{"local": abs, "remote": abs, "deadline_us": 1000, **said})
    for make in (lambda: Breaker(0), lambda: Breaker(1.5), lambda: Breaker(window=0), lambda: RetryBudget(-1)):
        with pytest.raises(FormatError):
            make()
