"""A hedge over a cut with early exits: whose answer it was, and what its breaker learns from it."""

from __future__ import annotations

import torch

import rtaccel as rt
from rtaccel.serve.hedge import Breaker, RetryBudget
from rtaccel.serve.remote import Endpoint, Inside, Remote
from tests.serve.split.test_early import Branches, expected


def test_a_hedge_takes_what_the_edge_has_answered(profile: rt.MachineProfile) -> None:
    torch.manual_seed(2)
    model, data = Branches(30, 8, 16).eval(), torch.randn(40, 30)
    cut = rt.split(
        model, data[:1], rt.Link(rtt_us=1), profile, profile, wires=("float32",), exit=[0.6], calibration=[data]
    )
    cut = cut.other(next(r for r in cut.front if r.at == 2))

    endpoint = Endpoint.of(cut)
    hedged = rt.Hedged(local=lambda x: None, remote=Remote.of(cut, Inside(endpoint)), deadline_us=30e6)
    sent = 0
    for x in data.split(1):
        want, left = expected(cut._whole(x), [rt.Exit("confidence", above=0.6)])
        assert torch.equal(hedged(x), want)
        assert hedged.source == ("edge" if left == [0] else "remote")
        sent += left != [0]
    stats = hedged.stats()
    assert (stats.edge, stats.remote, stats.sent) == (40 - sent, sent, sent)
    assert endpoint.stats().answered == sent
    assert 0 < sent < 40


class Broken:
    """A link that loses all it is given, until it is mended."""

    most_bytes = None

    def __init__(self, endpoint: Endpoint) -> None:
        self.inside, self.mended, self.given = Inside(endpoint), False, 0

    def send(self, frame: memoryview) -> None:
        self.given += 1
        if self.mended:
            self.inside.send(frame)

    def receive(self, timeout_s: float) -> object:
        return self.inside.receive(timeout_s)

    def close(self) -> None:
        self.inside.close()


def test_answers_of_the_edge_say_nothing_of_the_link(profile: rt.MachineProfile) -> None:
    """The breaker opens after the requests that were sent, whatever the edge answers between them; while it is open the edge
    still answers, and no answer of the edge closes it."""
    torch.manual_seed(3)
    model, data = Branches(30, 8, 16).eval(), torch.randn(60, 30)
    cut = rt.split(
        model, data[:1], rt.Link(rtt_us=1), profile, profile, wires=("float32",), exit=[0.6], calibration=[data]
    )
    cut = cut.other(next(r for r in cut.front if r.at == 2))
    rows = list(data.split(1))
    at_edge = [expected(cut._whole(x), [rt.Exit("confidence", above=0.6)])[1] == [0] for x in rows]
    link, clock = Broken(Endpoint.of(cut)), [0]

    def now() -> int:
        clock[0] += 40_000  # so a call without an answer ends
        return clock[0]

    hedged = rt.Hedged(
        local=lambda x: None, remote=Remote.of(cut, link), deadline_us=1000, clock=now, retries=RetryBudget(0),
        breaker=Breaker(1.0, 3, cooldown_us=1e9),
    )  # fmt: skip
    asked = 0
    for x, edge in zip(rows[:40], at_edge[:40]):
        y = hedged(x)
        assert hedged.source == ("edge" if edge else "local")
        assert (y is None) == (not edge)
        asked += not edge and asked < 3
        assert link.given == asked
        assert hedged._breaker.open == (asked == 3)
    assert 5 < sum(at_edge[:40]) < 35
    assert hedged.stats().held_back == 40 - sum(at_edge[:40]) - 3
    link.mended = True
    clock[0] += 10**13  # the next request is a trial
    for x, edge in zip(rows[40:], at_edge[40:]):
        hedged(x)
        assert hedged.source == ("edge" if edge else "remote")
        asked += not edge
        assert hedged._breaker.open == (asked == 3)
    assert asked > 5
