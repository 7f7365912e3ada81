"""Puts of a batcher in one call: each comes to what it would have come to alone, in every order of streams and stamps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import rtaccel as rt
from rtaccel import _native as native

STREAMS, DEADLINE = 200, 1_000_000


def make() -> rt.StreamModel:
    torch.manual_seed(5)
    return rt.stream(torch.nn.GRU(2, 3, batch_first=True).eval(), torch.randn(STREAMS, 2))


def begun(tickets: int, late: int) -> Any:
    given = {"deadline_ns": DEADLINE, "max_batch": STREAMS, "tickets": tickets, "spin_ns": 0, "late": late, "cpu": -1}
    hub: Any = native.Batcher(make()._plan(), ("float32", [2]), ("float32", [3]), {**given, "manual": 1})
    hub.start()
    hub.turn(50 * DEADLINE, 0)
    return hub


@pytest.mark.parametrize("seed", range(12))
def test_many_puts_are_as_many_puts(seed: int) -> None:
    rng = np.random.default_rng(seed)
    tickets, late = int(rng.choice([0, 0, 70, 2000])), int(rng.integers(2))
    one, many = begun(tickets, late), begun(tickets, late)
    now = 50 * DEADLINE
    outcomes: set[int] = set()
    for _ in range(8):
        for stream in rng.integers(STREAMS, size=3).tolist():
            change = ("reset", "remove", "add")[int(rng.integers(3))]
            assert getattr(one, change)(stream) == getattr(many, change)(stream)
        n = int(rng.choice([1, 3, 63, 64, 65, 150, 400]))
        near = int(rng.integers(1, STREAMS))  # few streams: the same ones again and again
        streams = torch.from_numpy(rng.integers(-1, near + 2, size=n))
        x = torch.from_numpy(rng.normal(size=(n, 2)).astype(np.float32))
        stamps = torch.from_numpy(now - rng.integers(-1, 3 * DEADLINE, size=n))
        common = bool(rng.integers(2))
        stamp = native.BATCHER_NOW if rng.integers(2) else now - 5
        codes = many.put_many(streams, x, stamp if common else stamps)
        alone = [one.put(s, row, stamp if common else t) for s, row, t in zip(streams.tolist(), x, stamps.tolist())]
        assert codes.tolist() == alone
        outcomes.update(min(c, 3) for c in alone)
        now += int(rng.integers(2 * DEADLINE))
        assert one.turn(now, 7) == many.turn(now, 7)
        now += 7
        if tickets:
            for ticket in (c for c in alone if c >= 0):
                assert one.wait(ticket, 0) == many.wait(ticket, 0)
                a, b = one.take(ticket), many.take(ticket)
                assert (a is None) == (b is None)
                if a is not None:
                    assert a[:2] == b[:2]
                    assert (a[2] is None and b[2] is None) or torch.equal(a[2], b[2])
        else:
            a, b = one.next(0), many.next(0)
            assert (a is None) == (b is None)
            if a is not None:
                assert all(torch.equal(torch.nan_to_num(p), torch.nan_to_num(q)) for p, q in zip(a, b))
                one.give_back(), many.give_back()
    counts, others = one.stats(), many.stats()
    assert all(
        counts[k] == others[k] for k in ("put", "full", "ok", "late", "replaced", "dropped", "refused", "batches")
    )
    assert counts["put"] > 0 and len(outcomes) > 2


def test_many_puts_of_a_batcher_that_has_stopped() -> None:
    hub = begun(0, 0)
    assert hub.put_many(torch.arange(70), torch.zeros(70, 2), native.BATCHER_NOW).tolist() == [0] * 70
    hub.stop()
    assert hub.put_many(torch.arange(70), torch.zeros(70, 2), native.BATCHER_NOW).tolist() == [-2] * 70
    assert hub.stats()["put"] == 70
