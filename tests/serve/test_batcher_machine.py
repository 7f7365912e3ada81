"""The batcher on a clock of its own, beside a model in plain Python: every put, batch and answer, step by step."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import rtaccel as rt
from rtaccel import _native as native
from rtaccel.serve.answer import STATUSES

STREAMS, DEADLINE = 67, 100_000  # more streams than a word has bits
FULL, STOPPED, STAMP, NO_STREAM = -1, -2, -3, -4


def make() -> rt.StreamModel:
    torch.manual_seed(0)
    model, windows = torch.nn.GRU(2, 3, batch_first=True).eval(), torch.randn(16, 20, 2)
    return rt.stream(model, torch.randn(STREAMS, 2), scheme="w8a8", calibration=[windows])  # the same bits for any rows


class Batcher(RuleBasedStateMachine):
    """waiting: stream -> (stamp, x, ticket, due). outcome: ticket -> (status, lateness, y) as the model has it."""

    def __init__(self) -> None:
        super().__init__()
        self.live, self.alone = make(), make()
        self.now = 10 * DEADLINE
        self.waiting: dict[int, tuple[int, torch.Tensor, int, int]] = {}
        self.newest: dict[int, int] = {}
        self.pending: dict[int, int] = {}
        self.outcome: dict[int, tuple[str, int, torch.Tensor | None]] = {}
        self.left: set[int] = set()
        self.taken: list[int] = []
        self.ring: list[list[tuple[int, int, str, torch.Tensor | None]]] = []
        self.blocked = self.stopped = False
        self.count = dict.fromkeys(("put", "full", *STATUSES), 0)

    @initialize(
        late=st.sampled_from([0, 1]),
        most=st.sampled_from([1, 3, STREAMS]),
        tickets=st.sampled_from([0, 0, 2, 5, 300]),
        room=st.sampled_from([1, 3, 4]),
    )
    def begin(self, late: int, most: int, tickets: int, room: int) -> None:
        self.late, self.most, self.tickets, self.room = late, most, tickets, room
        given = {"deadline_ns": DEADLINE, "max_batch": most, "tickets": tickets, "spin_ns": 0, "late": late, "cpu": -1}
        given["results"] = room  # batches that may wait for take_a_batch
        self.native: Any = native.Batcher(self.live._plan(), ("float32", [2]), ("float32", [3]), {**given, "manual": 1})
        assert self.native.put(0, torch.zeros(2), 0) == STOPPED
        self.native.start()
        self.native.turn(self.now, 0)

    def settle(self, ticket: int, status: str, lateness: int, y: torch.Tensor | None) -> None:
        self.count[status] += 1
        self.pending.pop(ticket, None)
        if ticket in self.left:
            self.left.discard(ticket)
        elif ticket >= 0:
            self.outcome[ticket] = status, lateness, y

    @rule(
        stream=st.integers(0, STREAMS - 1) | st.integers(0, 2),
        age=st.integers(0, 2 * DEADLINE) | st.sampled_from([0, 10_000, DEADLINE]),
        x=st.lists(st.floats(-3, 3, width=32), min_size=2, max_size=2),
    )
    def put(self, stream: int, age: int, x: list[float]) -> None:
        stamp, row = self.now - age, torch.tensor(x)
        got = self.native.put(stream, row, stamp)
        outstanding = len(self.pending) + len(self.outcome)
        if self.stopped:
            assert got == STOPPED
            return
        if (outstanding + len(self.left) >= self.tickets) if self.tickets else self.blocked:
            assert got == FULL
            self.count["full"] += 1
            return
        self.count["put"] += 1
        ticket = got if self.tickets else -1
        before = self.waiting.get(stream)
        if stamp < self.newest.get(stream, stamp):
            assert self.tickets or got == 2
            self.settle(ticket, "replaced", self.now - stamp - DEADLINE, None)
            return
        assert self.tickets or got == (0 if before is None else 1)
        self.newest[stream] = stamp
        if self.tickets:
            self.pending[ticket] = stamp
        if before is not None:
            self.settle(before[2], "replaced", self.now - before[0] - DEADLINE, None)
        self.waiting[stream] = stamp, row, ticket, before[3] if before else stamp + DEADLINE

    @rule(by=st.integers(1, DEADLINE) | st.sampled_from([1000, 50_000]), took=st.integers(0, DEADLINE // 2))
    def turn(self, by: int, took: int) -> None:
        self.now += by
        a, b, margin = self.native.stats()["cost_us"]
        left = self.native.turn(self.now, took)
        n = len(self.waiting)
        if n == 0:
            assert left == 0
            return
        slack = min(due for *_, due in self.waiting.values()) - self.now
        cost = (a + b * min(n, self.most)) * 1e3 + min(margin * 1e3, DEADLINE / 4)
        full_ring = not self.tickets and len(self.ring) == self.room
        if n == STREAMS or n >= self.most or self.stopped or slack < cost - 2:
            assert (left == 0) == full_ring
            self.blocked = full_ring
        elif slack > cost + 2:
            assert left == 0
        else:
            self.blocked = full_ring
        if left == 0:
            return
        self.now += took
        self.compare(self.now - took, left)

    def compare(self, began: int, left: int) -> None:
        chosen = sorted(sorted(self.waiting, key=lambda s: (self.waiting[s][3], s))[: self.most])
        assert left == len(chosen)
        stepped, dropped = [], []
        for stream in chosen:
            stamp, x, ticket, _ = self.waiting.pop(stream)
            if self.late and began > stamp + DEADLINE:
                self.settle(ticket, "dropped", began - stamp - DEADLINE, None)
                dropped.append((stream, stamp, "dropped", None))
                continue
            y = self.alone.step(x[None], streams=[stream])[0]
            lateness = self.now - stamp - DEADLINE
            status = "late" if lateness > 0 else "ok"
            self.settle(ticket, status, lateness, y)
            stepped.append((stream, stamp, status, y))
        if not self.tickets:
            self.ring.append(stepped + dropped[::-1])

    @precondition(lambda self: self.outcome)
    @rule(data=st.data(), leave=st.booleans())
    def take(self, data: Any, leave: bool) -> None:
        ticket = data.draw(st.sampled_from(sorted(self.outcome)))
        status, lateness, y = self.outcome.pop(ticket)
        self.taken.append(ticket)
        if leave:
            self.native.leave(ticket)
            return
        assert self.native.wait(ticket, 0) == 1
        got_status, got_lateness, got = self.native.take(ticket)
        assert (STATUSES[got_status], got_lateness) == (status, lateness)
        assert (got is None) == (y is None)
        if y is not None:
            assert torch.equal(got, y)

    @precondition(lambda self: self.pending)
    @rule(data=st.data(), leave=st.booleans())
    def ask_for_one_that_waits(self, data: Any, leave: bool) -> None:
        ticket = data.draw(st.sampled_from(sorted(self.pending)))
        assert self.native.wait(ticket, 0) == 0
        assert self.native.take(ticket) is None
        if leave:
            self.native.leave(ticket)
            del self.pending[ticket]
            self.left.add(ticket)

    @precondition(lambda self: self.taken)
    @rule(data=st.data())
    def a_ticket_is_taken_once(self, data: Any) -> None:
        ticket = data.draw(st.sampled_from(self.taken))
        assert self.native.wait(ticket, 0) == -1
        assert self.native.take(ticket) is None
        self.native.leave(ticket)

    @precondition(lambda self: not self.tickets)
    @rule()
    def take_a_batch(self) -> None:
        got = self.native.next(0)
        if not self.ring:
            assert got is None
            return
        streams, y, status, stamps = got
        rows = self.ring.pop(0)
        assert streams.tolist() == [r[0] for r in rows]
        assert stamps.tolist() == [r[1] for r in rows]
        assert [STATUSES[c] for c in status] == [r[2] for r in rows]
        for i, (*_, expected) in enumerate(rows):
            assert y[i].isnan().all() if expected is None else torch.equal(y[i], expected)
        self.native.give_back()

    @rule(after=st.integers(1, DEADLINE))
    def a_stamp_that_cannot_be(self, after: int) -> None:
        for stamp in (self.now + after, -after):
            assert self.native.put(0, torch.zeros(2), stamp) == (STOPPED if self.stopped else STAMP)

    @rule(stream=st.sampled_from([-1, STREAMS, 2**40]))
    def no_such_stream(self, stream: int) -> None:
        assert self.native.put(stream, torch.zeros(2), 0) == NO_STREAM

    @rule()
    def stop(self) -> None:
        self.native.stop()
        self.stopped = True

    @invariant()
    def every_put_is_counted(self) -> None:
        if not hasattr(self, "native"):
            return
        stats = self.native.stats()
        for name, count in self.count.items():
            assert stats[name] == count, name
        assert self.count["put"] == sum(self.count[s] for s in STATUSES) + len(self.waiting)
        assert stats["lateness"]["n"] == stats["queue"]["n"] == self.count["ok"] + self.count["late"]

    def teardown(self) -> None:
        """After a stop everything is answered, and every place is free again."""
        if not hasattr(self, "native"):
            return
        self.stop()
        for _ in range(2 * STREAMS):
            if not self.tickets:
                while self.ring:
                    self.take_a_batch()
            self.turn(1000, 0)
        assert not self.waiting
        assert not self.pending
        assert not self.left
        self.every_put_is_counted()


Batcher.TestCase.settings = settings(max_examples=30, stateful_step_count=50, deadline=None)
TestBatcher = Batcher.TestCase
