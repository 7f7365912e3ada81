"""A batcher over streams from a file, and streams that come, go and start anew while it runs."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import rtaccel as rt
from rtaccel import _native as native
from rtaccel.core.errors import ShapeError, UnsupportedProblem
from rtaccel.serve.stream_sides import side_of

FAR_US = 60e6
STREAMS = 5


def make(streams: int = STREAMS) -> Any:
    torch.manual_seed(1)
    return rt.stream(torch.nn.GRU(3, 4, batch_first=True).eval(), torch.randn(streams, 3))


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(rt.save(make(), tmp_path_factory.mktemp("files") / "gru.rta"))


@pytest.fixture(params=["compiled", "loaded"])
def both(request: pytest.FixtureRequest, file: Path) -> tuple[Any, Any]:
    return (make(), make()) if request.param == "compiled" else (rt.load(file), rt.load(file))


def numbers(seed: int, *shape: int) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def step(live: Any, x: Any, streams: list[int]) -> Any:
    return np.asarray(live.step(torch.from_numpy(x) if isinstance(live, torch.nn.Module) else x, streams=streams))


def test_a_stream_from_a_file(file: Path) -> None:
    live, alone = rt.load(file), rt.load(file)
    with rt.StreamBatcher(live, deadline_us=FAR_US) as hub:
        for n in range(20):
            x = numbers(n, STREAMS, 3)
            tickets = [hub.put(s, x[s] if n % 2 else torch.from_numpy(x[s])) for s in (3, 1, 4, 0, 2)]
            want = alone.step(x)
            for ticket in tickets:
                answer = ticket.result(60)
                assert answer.status == "ok" and isinstance(answer.y, np.ndarray)
                assert np.array_equal(answer.y, want[ticket.stream])
        for call in (lambda: live.step(x), live.reset, live.save_state):
            with pytest.raises(UnsupportedProblem):
                call()
        with pytest.raises(UnsupportedProblem):
            rt.StreamBatcher(live).start()
        beside = rt.Loop(live, rt.Latest((STREAMS, 3)), rt.Latest((STREAMS, 4)))
        with pytest.raises(UnsupportedProblem, match="batcher"):
            beside.start()
        for bad in (np.zeros(4, np.float32), np.zeros(3), "x", None, [1, 2], torch.zeros(3, dtype=torch.double)):
            with pytest.raises(ShapeError):
                hub.put(0, bad)
        strided = np.zeros((3, 2), np.float32)[:, 0]
        assert hub.put(0, strided).stream == 0
    assert hub.stats().ok == 101
    alone.step(np.zeros((1, 3), np.float32), streams=[0])
    assert np.array_equal(live.step(x), alone.step(x))


def test_put_many_and_a_callback_from_a_file(file: Path) -> None:
    live, alone, got = rt.load(file), rt.load(file), []
    hub = rt.StreamBatcher(live, deadline_us=FAR_US, on_result=lambda *batch: got.append(batch))
    with hub:
        for n in range(10):
            assert hub.put_many(list(range(STREAMS)), numbers(n, STREAMS, 3)) == {}
            while len(got) <= n:
                time.sleep(0.0005)
        with pytest.raises(ShapeError):
            hub.put_many([0, 1], numbers(0, 3, 3))
        with pytest.raises(ShapeError):
            hub.put_many([0, 9], numbers(0, 2, 3))
    for n, (streams, y, status) in enumerate(got[:10]):
        assert streams.tolist() == list(range(STREAMS)) and status.tolist() == [0] * STREAMS
        assert np.array_equal(y, alone.step(numbers(n, STREAMS, 3)))


def test_a_reset_begins_with_the_next_sample(both: tuple[Any, Any]) -> None:
    live, alone = both
    with rt.StreamBatcher(live, deadline_us=FAR_US) as hub:
        for n in range(6):
            if n in (2, 4):
                assert hub.reset([1, 3]) == []
                alone.reset([1, 3])
            x = numbers(n, STREAMS, 3)
            tickets = [hub.put(s, x[s]) for s in range(STREAMS)]
            want = step(alone, x, list(range(STREAMS)))
            for s, ticket in enumerate(tickets):
                assert np.array_equal(ticket.result(60).y, want[s])
        waiting = hub.put(1, x[1])
        assert hub.reset([0, 1]) == [1]
        assert waiting.result(60).status == "replaced"
    alone.reset([0, 1])  # what has not stepped since is reset at the end
    assert np.array_equal(np.asarray(live.step(x if not isinstance(live, torch.nn.Module) else torch.from_numpy(x))),
                          step(alone, x, list(range(STREAMS))))  # fmt: skip


def test_streams_come_and_go(both: tuple[Any, Any]) -> None:
    live, alone = both
    everyone = list(range(STREAMS))
    with rt.StreamBatcher(live, deadline_us=FAR_US) as hub:
        x = numbers(0, STREAMS, 3)
        for ticket in [hub.put(s, x[s]) for s in everyone]:
            ticket.result(60)
        step(alone, x, everyone)
        waiting = hub.put(4, x[4])
        assert hub.remove([1, 4]) == [4]
        assert waiting.result(60).status == "replaced"
        assert hub.streams == [0, 2, 3]
        for gone in (1, 4):
            with pytest.raises(ShapeError, match=str(gone)):
                hub.put(gone, x[gone])
        tickets = [hub.put(s, x[s]) for s in (0, 2, 3)]  # that is all there are: the batch leaves at once
        want = step(alone, x[[0, 2, 3]], [0, 2, 3])
        for row, ticket in zip(want, tickets, strict=True):
            assert np.array_equal(ticket.result(60).y, row)
        hub.put(0, x[0]), hub.put(2, x[2])
        hub.remove(3)  # those that are left wait already
        end = time.monotonic() + 60
        while hub.stats().ok < STREAMS + 3 + 2:
            assert time.monotonic() < end
            time.sleep(0.001)
        step(alone, x[[0, 2]], [0, 2])
        hub.add([1, 3])
        alone.reset([1, 3, 4])
        earlier = time.monotonic_ns() - 50_000_000_000
        tickets = [hub.put(s, x[s], stamp_ns=earlier if s == 1 else None) for s in (0, 1, 2, 3)]
        want = step(alone, x[[0, 1, 2, 3]], [0, 1, 2, 3])
        for row, ticket in zip(want, tickets, strict=True):
            assert np.array_equal(ticket.result(60).y, row)
        for bad in ([1], [4, 1], [9], [4, 4], [-1]):
            with pytest.raises(ShapeError):
                hub.add(bad)
        for bad in ([4], [0, 4], [0, 0], [5]):
            with pytest.raises(ShapeError):
                hub.remove(bad)
        assert hub.streams == [0, 1, 2, 3]
    with pytest.raises(UnsupportedProblem):
        hub.reset(0)
    assert np.array_equal(step(live, x, everyone), step(alone, x, everyone))


@pytest.fixture
def threads_change_often() -> Iterator[None]:
    """The interpreter goes to another thread after 0.1 ms and not 5 ms: more orders of events in less time."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("threads_change_often")
def test_changes_beside_puts_lose_nothing(both: tuple[Any, Any]) -> None:
    """Every sample that was taken gets one answer, whatever is reset and removed meanwhile."""
    live, _ = both
    stop = threading.Event()
    with rt.StreamBatcher(live, deadline_us=2000, tickets=64) as hub:

        def change() -> None:
            random = np.random.default_rng(3)
            while not stop.is_set():
                stream = int(random.integers(STREAMS))
                hub.reset(stream)
                hub.remove(stream)
                hub.add(stream)

        other = threading.Thread(target=change)
        other.start()
        answers, refused = [], 0
        try:
            for n in range(3000):
                try:
                    answers.append(hub.put(n % STREAMS, numbers(n, 3)).result(60).status)
                except ShapeError:
                    refused += 1
        finally:
            stop.set()
            other.join()
    stats = hub.stats()
    assert set(answers) <= {"ok", "late", "replaced"}
    assert len(answers) == 3000 - refused == stats.put
    assert stats.put == stats.ok + stats.late + stats.replaced + stats.dropped
    assert answers.count("ok") == stats.ok and answers.count("replaced") == stats.replaced


def test_turns_with_streams_that_were_taken_out(file: Path) -> None:
    """By hand, on a clock of its own: an emptied mark costs no sample, and no place."""
    side = side_of(rt.load(file))
    settings = {
        "deadline_ns": 1000_000,
        "max_batch": STREAMS,
        "tickets": 0,
        "spin_ns": 0,
        "late": 0,
        "cpu": -1,
        "manual": 1,
    }
    core = native.Batcher(side.native, (side.dtype, list(side.row)), side.output, settings)
    core.start()
    now = 1_000_000_000
    core.turn(now, 0)
    x = numbers(0, STREAMS, 3)
    assert [core.put(s, x[s], now) for s in (0, 1)] == [0, 0]
    assert core.turn(now, 0) == 0
    assert [core.reset(0), core.reset(0), core.remove(1), core.remove(1), core.add(0)] == [1, 0, 1, -4, -4]
    assert core.turn(now + 2_000_000, 0) == 0  # due, and nothing is there
    assert [core.put(s, x[s], now + 2_000_000) for s in (0, 1, 2)] == [0, -4, 0]
    assert core.turn(now + 4_000_000, 0) == 2
    streams, y, status, _ = core.next(0)
    alone = rt.load(file)
    assert streams.tolist() == [0, 2] and status.tolist() == [1, 1]
    assert np.array_equal(y, alone.step(x[[0, 2]], streams=[0, 2]))
    assert [core.put(s, x[s], now + 4_000_000) for s in (0, 2, 3, 4)] == [0] * 4
    assert core.turn(now + 4_000_001, 0) == 4  # every stream that is there
    counts = core.stats()
    assert (counts["put"], counts["replaced"], counts["ok"] + counts["late"]) == (8, 2, 6)


SCRIPT = """
import sys
sys.modules["torch"] = None  # as where it is not installed
import numpy as np
import rtaccel as rt

live, alone = rt.load(sys.argv[1]), rt.load(sys.argv[1])
x = np.linspace(-1, 1, 15, dtype=np.float32).reshape(5, 3)
with rt.StreamBatcher(live, deadline_us=60e6) as hub:
    tickets = hub.put_many(range(5), x)
    got = np.stack([t.result(60).y for t in tickets])
    hub.remove([0])
assert np.array_equal(got, alone.step(x))
print(hub.stats().ok, sys.modules["torch"])
"""


def test_without_torch(file: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(file)], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["5", "None"]


def test_a_file_that_is_no_stream(tmp_path: Path) -> None:
    plain = rt.load(rt.save(rt.compile(torch.nn.Linear(3, 2).eval(), torch.randn(1, 3)), tmp_path / "plain.rta"))
    with pytest.raises(UnsupportedProblem, match="without a past"):
        rt.StreamBatcher(plain)
    with pytest.raises(UnsupportedProblem, match="a int"):
        rt.StreamBatcher(3)
