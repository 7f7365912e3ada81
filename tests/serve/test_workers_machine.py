"""Workers on a clock of their own, beside a model in plain Python: whose turn it is, and what becomes of every sample."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

import rtaccel as rt
from rtaccel import _native as native
from rtaccel.serve.answer import STATUSES

STREAMS, UNITS, DEADLINES, MARGIN = 5, 3, (100_000, 150_000, 400_000), 5_000


@functools.cache
def compiled(number: int) -> rt.StreamModel:
    return rt.stream(torch.nn.GRU(2, UNITS, batch_first=True).eval(), torch.randn(STREAMS, 2))


class Model:
    """A batcher with what the test knows of it. waiting: stream -> (stamp, due, when put)."""

    def __init__(self, number: int, deadline: int, pool: Any) -> None:
        live = compiled(number)
        made = {"deadline_ns": deadline, "max_batch": STREAMS, "tickets": 0, "spin_ns": 0, "late": 0, "cpu": -1}
        row = ("float32", [2]), ("float32", [UNITS])
        self.native: Any = native.Batcher(live._plan(), *row, {**made, "manual": 1, "workers": pool})
        self.native.start()
        self.deadline = deadline
        self.waiting: dict[int, tuple[int, int, int]] = {}
        self.newest: dict[int, int] = {}
        self.count = dict.fromkeys(("put", *STATUSES, "overran", "held_up"), 0)

    def close(self) -> None:
        self.native.stop()
        assert self.native.wait_stopped(0)  # the compiled model is free for the next one

    def cost(self) -> float:
        a, b, margin = self.native.stats()["cost_us"]
        return (a + b * len(self.waiting)) * 1e3 + min(margin * 1e3, self.deadline / 4)

    def due(self) -> int:
        return min(due for _, due, _ in self.waiting.values())

    def put(self, stream: int, stamp: int, now: int) -> None:
        code = self.native.put(stream, torch.ones(2), stamp)
        self.count["put"] += 1
        if stamp < self.newest.get(stream, stamp):
            assert code == 2
            self.count["replaced"] += 1
            return
        self.newest[stream] = stamp
        before = self.waiting.get(stream)
        self.count["replaced"] += before is not None
        assert code == (before is not None)
        self.waiting[stream] = stamp, before[1] if before else stamp + self.deadline, now


class Workers(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.pool: Any = native.Workers([-1], 0, True)
        self.models = [Model(i, deadline, self.pool) for i, deadline in enumerate(DEADLINES)]
        self.now = 1_000_000
        self.before: tuple[Model, int, int] | None = None
        self.pool.turn(self.now, 0)

    @rule(which=st.integers(0, 2), stream=st.integers(0, STREAMS - 1), age=st.integers(0, 150_000) | st.just(0))
    def put(self, which: int, stream: int, age: int) -> None:
        self.models[which].put(stream, self.now - age, self.now)

    def starts(self) -> list[tuple[float, Model]]:
        """The latest start of each batch that waits, first to last."""
        found, behind = [], float("inf")
        for model in sorted((m for m in self.models if m.waiting), key=Model.due, reverse=True):
            behind = min(model.due(), behind) - model.cost()
            found.append((behind, model))
        return found[::-1]

    @rule(by=st.integers(0, 60_000), took=st.integers(0, 90_000))
    def turn(self, by: int, took: int) -> None:
        self.now += by
        starts = self.starts()
        costs = {id(m): m.cost() for _, m in starts}
        alone = {id(m): m.due() - costs[id(m)] for _, m in starts}
        address, until = self.pool.turn(self.now, took)
        left = next((m for m in self.models if m.native.address() == address), None)
        if not starts:
            assert left is None
            assert until == 2**63 - 1
            return
        first = starts[0][0]
        assert abs(until - first) <= 4
        whole = [(s, m) for s, m in starts if len(m.waiting) == STREAMS]
        tied = [m for s, m in starts if m.due() == starts[0][1].due()]
        if self.now >= first + 4:
            assert left in tied
        elif self.now < first - 4:
            fits = [
                m for s, m in whole if m in tied or self.now + costs[id(m)] <= first + 4
            ]  # with what rounding leaves open
            assert (left is None and not any(m is starts[0][1] for _, m in whole)) or left in fits
        if left is None:
            return
        self.leave(left, self.now, took, costs[id(left)], alone[id(left)])

    def leave(self, model: Model, began: int, took: int, cost: float, latest: float) -> None:
        self.now = began + took
        streams, _, status, stamps = model.native.next(0)
        model.native.give_back()
        assert sorted(model.waiting) == streams.tolist()
        for stream, code, stamp in zip(streams.tolist(), status.tolist(), stamps.tolist(), strict=True):
            assert model.waiting[stream][0] == stamp
            expected = "ok" if self.now <= stamp + model.deadline else "late"
            assert STATUSES[code] == expected
            model.count[expected] += 1
        if abs(took - cost) > 4:
            model.count["overran"] += took > cost
        else:
            model.count["overran"] = model.native.stats()["overran"]
        if self.before is not None and self.before[0] is not model:
            oldest = min(put for *_, put in model.waiting.values())
            held = self.before[2] - max(latest, oldest, self.before[1])
            if abs(held) <= 4:
                model.count["held_up"] = model.native.stats()["held_up"]
            else:
                model.count["held_up"] += held > 0
        self.before = model, began, self.now
        model.waiting.clear()

    @invariant()
    def everything_is_counted(self) -> None:
        for model in self.models:
            stats = model.native.stats()
            for name, count in model.count.items():
                assert stats[name] == count, name
            assert stats["put"] == sum(model.count[s] for s in STATUSES) + len(model.waiting)

    def teardown(self) -> None:
        for model in self.models:
            model.close()


Workers.TestCase.settings = settings(max_examples=25, stateful_step_count=50, deadline=None)
TestWorkers = Workers.TestCase


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(10_000, 200_000), st.integers(0, 60_000)), min_size=1, max_size=5))
def test_whatever_can_be_in_time_is(batches: list[tuple[int, int]]) -> None:
    """(slack, cost) of a batch each of as many models, all there at once: if any order meets every deadline, so does this one."""
    pool: Any = native.Workers([-1], 0, True)
    deadline = 10_000_000
    models = [Model(i, deadline, pool) for i in range(len(batches))]
    try:
        check_schedule(pool, models, batches, deadline)
    finally:
        for model in models:
            model.close()


def check_schedule(pool: Any, models: list[Model], batches: list[tuple[int, int]], deadline: int) -> None:
    now = 20_000_000
    pool.turn(now, 0)
    for model, (_, cost) in zip(models, batches, strict=True):  # what each costs is learned from one batch
        model.put(0, now - deadline, now)
        address, _ = pool.turn(now, cost)
        assert address == model.native.address()
        model.native.next(0)
        model.native.give_back()
        now += cost
    dues = [now + slack for slack, _ in batches]
    for model, due in zip(models, dues, strict=True):
        model.put(1, due - deadline, now)
    allowed = [cost + MARGIN for _, cost in batches]

    def meets(order: tuple[int, ...]) -> bool:
        ends = itertools.accumulate((allowed[i] for i in order), initial=now)
        return all(end <= dues[i] for i, end in zip(order, itertools.islice(ends, 1, None), strict=True))

    feasible = any(meets(order) for order in itertools.permutations(range(len(batches))))
    left = sorted(range(len(batches)), key=lambda i: dues[i])
    statuses = []
    while left:
        now, address = advance(pool, now, batches[left[0]][1])
        gone = next(i for i in left if models[i].native.address() == address)
        assert dues[gone] == dues[left[0]]
        if gone != left[0]:  # as long as its twin in time, but not in cost
            return
        left.remove(gone)
        statuses += models[gone].native.next(0)[2].tolist()
        models[gone].native.give_back()
    if feasible:
        assert statuses == [0] * len(batches)


def advance(pool: Any, now: int, cost: int) -> tuple[int, int]:
    """To the next batch that leaves, and over it: the time then, and whose it was."""
    for _ in range(100):
        address, until = pool.turn(now, cost)
        if address:
            return now + cost, address
        assert until > now
        now = until
    raise AssertionError("no batch leaves")
