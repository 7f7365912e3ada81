"""Clocks that are wrong: nobody looks at another machine's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import rtaccel as rt
from rtaccel.serve.frames import Writer
from rtaccel.serve.frames.end import parse
from rtaccel.serve.remote import Endpoint, Inside, Remote, TimedOut

YEAR_NS = 365 * 86_400 * 10**9


@pytest.mark.parametrize("skew_ns", [-100 * YEAR_NS, -1, 0, 10**9, 100 * YEAR_NS])
def test_a_stamp_comes_back_as_it_was(cut: rt.Cut, skew_ns: int) -> None:
    """Of a sender whose clock is ahead or behind by any time: its requests are answered, with its own stamp."""
    endpoint = Endpoint.of(cut)
    writer = Writer([np.zeros((2, 8), np.float32)], cut.digest)
    frame = bytearray(writer.bytes)
    for number in range(1, 4):
        writer.write(frame, number, stamp_ns=skew_ns + number)
        answer = endpoint.answer(frame, "edge")
        assert answer is not None
        head, _, _ = parse(answer)
        assert (head.sequence, head.stamp_ns) == (number, skew_ns + number)
    assert endpoint.stats().refused == {}


def test_a_sender_whose_clock_was_set_back_waits_until_it_has_caught_up(
    cut: rt.Cut, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It starts three times at an endpoint that goes on: later, earlier than that, and later again."""
    endpoint, now = Endpoint.of(cut), [2 * YEAR_NS]
    monkeypatch.setattr("rtaccel.serve.frames.end.time.time_ns", lambda: now[0])
    x = torch.randn(2, 40)

    class OneEdge(Inside):
        """Each start of the sender comes from the same address."""

        def send(self, frame: memoryview) -> None:
            answer = self.endpoint.answer(frame, peer="edge")
            if answer is not None:
                self._answers.append(answer)

    def start() -> Any:
        return Remote.of(cut, OneEdge(endpoint))

    assert torch.equal(start()(x), cut._whole(x))
    now[0] -= YEAR_NS
    with pytest.raises(TimedOut):
        start()(x, timeout_s=0.01)
    assert endpoint.stats().refused == {"session": 1}
    now[0] += YEAR_NS + 1
    assert torch.equal(start()(x), cut._whole(x))


def test_a_node_that_lies_about_its_speed(cut: rt.Cut) -> None:
    """It is said to be fast, and its answers come after the deadline: none is given late, and it is soon left alone."""

    class Slow(Inside):
        """Answers that are there after everybody has gone."""

        def receive(self, timeout_s: float) -> Any:
            return super().receive(timeout_s) if timeout_s > 0.5 else None

    local = rt.compile(torch.nn.Linear(40, 40).eval(), torch.randn(2, 40))
    x = torch.randn(2, 40)
    hedged = rt.Hedged(local=local, remote=Remote.of(cut, Slow(Endpoint.of(cut))), deadline_us=500)
    for _ in range(100):
        y = hedged(x)
        assert hedged.source == "local"
        assert torch.equal(y, local(x))
    stats = hedged.stats()
    assert stats.opened >= 1
    assert stats.sent < 50
    assert stats.held_back > 50
