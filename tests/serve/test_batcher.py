"""`rt.StreamBatcher` as a caller sees it: results, statuses, bad input, callbacks, the end."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

import numpy as np
import pytest
import torch

import rtaccel as rt
from rtaccel.core.errors import FormatError, ShapeError, UnsupportedProblem

HOUR_US = 3.6e9
FAR_US = 60e6
"""A deadline that no busy machine misses; where every stream waits, a batch leaves at once."""


def make(streams: int = 5, scheme: str = "float32") -> rt.StreamModel:
    torch.manual_seed(1)
    model = torch.nn.GRU(3, 4, batch_first=True).eval()
    calibration = [torch.randn(8, 16, 3)] if scheme == "w8a8" else None
    return rt.stream(model, torch.randn(streams, 3), scheme=scheme, calibration=calibration)


class Tagger(torch.nn.Module):
    """Indices [batch, time] through an embedding and a GRU."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.gru = torch.nn.Embedding(7, 5), torch.nn.GRU(5, 4, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.gru(self.table(x))[0][:, -1]


@pytest.mark.parametrize("scheme", ["float32", "w8a8"])
def test_a_full_batch_leaves_at_once_and_equals_a_step(scheme: str) -> None:
    live, alone = make(5, scheme), make(5, scheme)
    with rt.StreamBatcher(live, deadline_us=FAR_US) as hub:
        for _ in range(20):
            x = torch.randn(5, 3)
            tickets = [hub.put(s, x[s]) for s in (3, 1, 4, 0, 2)]
            answers = [t.result(60) for t in tickets]
            assert [a.status for a in answers] == ["ok"] * 5
            assert all(a.late_us < 0 for a in answers)
            expected = alone.step(x)
            for s, a in zip((3, 1, 4, 0, 2), answers, strict=True):
                assert torch.equal(a.y, expected[s])
    stats = hub.stats()
    assert (stats.put, stats.answered, stats.batches, stats.batch.max) == (100, 100, 20, 5)
    assert torch.equal(live.step(x), alone.step(x))  # it is free again, with the past of both the same


def test_the_first_streams_of_a_model_alone() -> None:
    """A batch is whole without the others, which stand still and take no samples."""
    live, alone = make(), make()
    before = live.step(torch.ones(5, 3))
    assert torch.equal(before, alone.step(torch.ones(5, 3)))
    x = torch.randn(3, 3)
    with rt.StreamBatcher(live, streams=3, deadline_us=FAR_US) as hub:
        answers = [ticket.result(60) for ticket in hub.put_many([0, 1, 2], x)]
        with pytest.raises(ShapeError, match=r"0\.\.2"):
            hub.put(3, x[0])
        assert hub.streams == [0, 1, 2]
    assert torch.equal(torch.stack([answer.y for answer in answers]), alone.step(x, streams=[0, 1, 2]))
    assert torch.equal(live.step(torch.ones(5, 3)), alone.step(torch.ones(5, 3)))


def test_a_batch_of_some_leaves_before_its_deadline() -> None:
    live, alone = make(), make()
    with rt.StreamBatcher(live, deadline_us=500_000) as hub:
        begin = time.monotonic_ns()
        ticket = hub.put(2, torch.ones(3), stamp_ns=begin)
        assert not ticket.done
        answer = ticket.result()
        assert answer.status == ("ok" if answer.late_us <= 0 else "late")
        assert torch.equal(answer.y, alone.step(torch.ones(1, 3), streams=[2])[0])
        assert time.monotonic_ns() - begin > 100_000_000  # it waited for others


def test_the_newest_sample_of_a_stream_stays() -> None:
    live, alone = make(), make()
    with rt.StreamBatcher(live, deadline_us=FAR_US) as hub:
        now = time.monotonic_ns()
        first = hub.put(0, torch.ones(3), now - 100)
        second = hub.put(0, torch.full((3,), 2.0), now - 50)
        old = hub.put(0, torch.full((3,), 3.0), now - 70)
        assert first.result(60)[:2] == (None, "replaced")
        assert old.result(60)[:2] == (None, "replaced")
        assert second.result(0).status == "waiting"
        hub.stop()
        answer = second.result(60)
        assert answer.status == "ok"
        assert torch.equal(answer.y, alone.step(torch.full((1, 3), 2.0), streams=[0])[0])
    assert hub.stats().replaced == 2


def test_late_samples_are_answered_or_dropped_as_asked() -> None:
    old = time.monotonic_ns() - 10_000_000_000
    live, alone = make(), make()
    with rt.StreamBatcher(live, deadline_us=1000) as hub:
        answer = hub.put(1, torch.ones(3), old).result(60)
    assert answer.status == "late"
    assert answer.late_us > 9e6
    assert torch.equal(answer.y, alone.step(torch.ones(1, 3), streams=[1])[0])

    with rt.StreamBatcher(live, deadline_us=1000, late="drop") as hub:
        dropped = hub.put(1, torch.ones(3), old + 1).result(60)
    assert dropped.y is None
    assert dropped.status == "dropped"
    assert torch.equal(live.step(torch.ones(5, 3)), alone.step(torch.ones(5, 3)))  # it did not move
    assert hub.stats().dropped == 1


def test_without_a_place_a_put_is_full_and_changes_nothing() -> None:
    with rt.StreamBatcher(make(), deadline_us=FAR_US, tickets=2) as hub:
        first, second = hub.put(0, torch.ones(3)), hub.put(1, torch.ones(3))
        third = hub.put(2, torch.ones(3))
        assert third.done
        assert third.result()[:2] == (None, "full")
        del first  # nobody will take it, but its batch has not left
        assert hub.put(2, torch.ones(3)).result().status == "full"
        hub.stop()
        assert second.result(60).status == "ok"
    assert (hub.stats().put, hub.stats().full, hub.stats().ok) == (2, 2, 2)


def test_tickets_that_are_thrown_away_free_their_places() -> None:
    with rt.StreamBatcher(make(), deadline_us=FAR_US, tickets=5) as hub:
        for _ in range(50):
            statuses = {hub.put(s, torch.ones(3)).done for s in range(5)}  # the last one may find the batch gone
            while hub.stats().answered < hub.stats().put:
                time.sleep(0)
            assert statuses <= {True, False}
    assert hub.stats().put == hub.stats().ok + hub.stats().late
    assert (hub.stats().put, hub.stats().full) == (250, 0)


def test_nan_passes_as_in_the_model_and_stays_in_its_stream() -> None:
    live, alone = make(), make()
    x = torch.ones(5, 3)
    x[2, 1] = float("nan")
    with rt.StreamBatcher(live, deadline_us=FAR_US) as hub:
        got = torch.stack([t.result(60).y for t in hub.put_many(range(5), x)])
    torch.testing.assert_close(got, alone.step(x), rtol=0, atol=0, equal_nan=True)
    assert got.isnan().any(1).tolist() == [False, False, True, False, False]


def test_a_number_that_the_model_refuses_is_one_streams_business() -> None:
    torch.manual_seed(0)
    model, example = Tagger().eval(), torch.zeros(4, dtype=torch.int64)
    live, alone = rt.stream(model, example), rt.stream(model, example)
    with rt.StreamBatcher(live, deadline_us=FAR_US) as hub:
        tickets = [hub.put(s, i) for s, i in enumerate((torch.tensor(3), np.int64(6), 7, 0))]
        answers = [t.result(60) for t in tickets]
    assert [a.status for a in answers] == ["ok", "ok", "refused", "ok"]
    assert answers[2].y is None
    expected = alone.step(torch.tensor([3, 6, 0]), streams=[0, 1, 3])
    torch.testing.assert_close(torch.stack([answers[s].y for s in (0, 1, 3)]), expected, rtol=0, atol=1e-6)
    assert hub.stats().refused == 1


def test_inputs_of_other_kinds() -> None:
    live, alone = make(), make()
    base = torch.randn(3, 5)
    with rt.StreamBatcher(live, deadline_us=FAR_US) as hub:
        kinds = [
            base[:, 0],
            base[:, 1].clone().numpy(),
            base[:, 2].clone().requires_grad_(),
            base.T[3],
            base.numpy()[:, 4],
        ]
        got = torch.stack([t.result(60).y for t in [hub.put(s, x) for s, x in enumerate(kinds)]])
        assert torch.equal(got, alone.step(base.T.contiguous()))
        got = torch.stack([t.result(60).y for t in hub.put_many(torch.arange(5), base.T)])
        assert torch.equal(got, alone.step(base.T.contiguous()))


BAD_PUTS: dict[str, tuple[type[Exception], Any]] = {
    "no such stream": (ShapeError, lambda hub: hub.put(5, torch.ones(3))),
    "a stream below 0": (ShapeError, lambda hub: hub.put(-1, torch.ones(3))),
    "a stream that is no number": (ShapeError, lambda hub: hub.put("a", torch.ones(3))),
    "another width": (ShapeError, lambda hub: hub.put(0, torch.ones(4))),
    "a batch of one": (ShapeError, lambda hub: hub.put(0, torch.ones(1, 3))),
    "another dtype": (ShapeError, lambda hub: hub.put(0, torch.ones(3, dtype=torch.float64))),
    "a list": (ShapeError, lambda hub: hub.put(0, ["a"])),
    "nothing": (ShapeError, lambda hub: hub.put(0, None)),
    "a stamp after now": (FormatError, lambda hub: hub.put(0, torch.ones(3), time.monotonic_ns() + 10**12)),
    "a stamp below 0": (FormatError, lambda hub: hub.put(0, torch.ones(3), -5)),
    "a stamp that is no number": (FormatError, lambda hub: hub.put(0, torch.ones(3), "now")),
    "many: no such stream": (ShapeError, lambda hub: hub.put_many([5], torch.ones(1, 3))),
    "many: other rows": (ShapeError, lambda hub: hub.put_many([0, 1], torch.ones(3, 3))),
    "many: streams of another dtype": (ShapeError, lambda hub: hub.put_many(torch.ones(1), torch.ones(1, 3))),
    "many: a stamp after now": (
        FormatError,
        lambda hub: hub.put_many([0], torch.ones(1, 3), torch.tensor([time.monotonic_ns() + 10**12])),
    ),
    "many: other stamps": (ShapeError, lambda hub: hub.put_many([0], torch.ones(1, 3), torch.tensor([1, 2]))),
}


@pytest.mark.parametrize("case", BAD_PUTS)
def test_a_bad_put_says_why_and_changes_nothing(case: str) -> None:
    kind, call = BAD_PUTS[case]
    with rt.StreamBatcher(make(), deadline_us=FAR_US) as hub:
        with pytest.raises(kind):
            call(hub)
        assert hub.stats().put == 0


@pytest.mark.parametrize(
    "options",
    [
        {"deadline_us": 0}, {"deadline_us": "1"}, {"deadline_us": float("nan")}, {"late": "never"}, {"max_batch": 0},
        {"max_batch": 6}, {"tickets": 0}, {"on_result": 3}, {"on_result": print, "tickets": 3}, {"cpu": -1},
        {"spin_us": -1}, {"deadline_us": 2 * HOUR_US}, {"streams": 0}, {"streams": 6}, {"streams": True},
        {"streams": 3, "max_batch": 4}, {"behind": 0}, {"behind": 4097},
    ],
)  # fmt: skip
def test_settings_that_there_are_not(options: dict[str, Any]) -> None:
    with pytest.raises(FormatError):
        rt.StreamBatcher(make(), **options)


def test_models_that_cannot_be_batched() -> None:
    linear = torch.nn.Linear(3, 2).eval()
    for model in (linear, rt.compile(linear, (torch.randn(1, 3),)), rt.stream(linear, torch.randn(2, 3))):
        with pytest.raises(UnsupportedProblem):
            rt.StreamBatcher(model)  # type: ignore[arg-type]


def test_it_starts_once_and_has_the_model_to_itself() -> None:
    live = make()
    hub = rt.StreamBatcher(live, deadline_us=FAR_US)
    with pytest.raises(UnsupportedProblem):
        hub.put(0, torch.ones(3))
    with hub:
        assert hub.running
        with pytest.raises(UnsupportedProblem):
            live.step(torch.ones(5, 3))
        with pytest.raises(UnsupportedProblem):
            rt.StreamBatcher(live).start()
        with pytest.raises(UnsupportedProblem, match="starts once"):
            hub.start()
        with pytest.raises(UnsupportedProblem, match="running batcher"):
            os.fork()
        waiting = hub.put(0, torch.ones(3))
    assert waiting.result(0).status == "ok"  # stop drains
    with pytest.raises(UnsupportedProblem, match="again"):
        waiting.result()
    for call in (lambda: hub.put(0, torch.ones(3)), lambda: hub.put_many([0], torch.ones(1, 3)), hub.start):
        with pytest.raises(UnsupportedProblem):
            call()
    hub.stop()
    live.step(torch.ones(5, 3))


def test_one_of_two_threads_has_the_answer_of_a_ticket() -> None:
    with rt.StreamBatcher(make(), deadline_us=20_000) as hub:
        for _ in range(10):
            ticket, got = hub.put(0, torch.ones(3)), []

            def ask(ticket: Any = ticket, got: list[str] = got) -> None:
                try:
                    got.append(ticket.result(60).status)
                except UnsupportedProblem:
                    got.append("taken")

            asking = [threading.Thread(target=ask) for _ in range(2)]
            for t in asking:
                t.start()
            for t in asking:
                t.join()
            assert sorted(got)[-1] == "taken"
            assert sorted(got)[0] in ("ok", "late")


def test_a_batcher_that_is_forgotten_ends_its_thread() -> None:
    live = make()
    rt.StreamBatcher(live, deadline_us=FAR_US).start().put(0, torch.ones(3))
    live.step(torch.ones(5, 3))


def test_weights_change_between_two_batches() -> None:
    live, other = make(), make()
    state = {k: v * 2 if v.is_floating_point() else v for k, v in other.state_dict().items() if k != "_extra_state"}
    assert state
    with rt.StreamBatcher(live, deadline_us=FAR_US) as hub:
        before = [t.result(60).y for t in hub.put_many(range(5), torch.ones(5, 3))]
        live.swap(state)
        after = [t.result(60).y for t in hub.put_many(range(5), torch.ones(5, 3))]
    other.step(torch.ones(5, 3))
    kept = other.step(torch.ones(5, 3))
    assert not torch.equal(torch.stack(after), kept)
    assert not torch.equal(torch.stack(before), torch.stack(after))
