"""A batcher's door: other processes put and take, die, and find it gone; what they write is not believed."""

from __future__ import annotations

import mmap
import os
import signal
import struct
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
from bench.soak.kills import run
from rtaccel.core.errors import FormatError, ShapeError, UnsupportedProblem
from rtaccel.serve.door import BatcherClient

FAR_US = 60e6
SHARED = Path("/dev/shm")


def make(streams: int = 5) -> rt.StreamModel:
    torch.manual_seed(1)
    return rt.stream(torch.nn.GRU(3, 4, batch_first=True).eval(), torch.randn(streams, 3))


@pytest.fixture
def name(request: pytest.FixtureRequest) -> Iterator[str]:
    made = f"door-{os.getpid()}-{abs(hash(request.node.nodeid))}"
    yield made
    assert not (SHARED / f"rta.{made}").exists()  # nothing is left


def until(what: Any, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.01)


def python(code: str, *words: str, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", code, *words], stdout=subprocess.PIPE, text=True, **options)


PUTS = """
import sys
import numpy as np
from rtaccel.serve.door import BatcherClient
with BatcherClient(sys.argv[1]) as door:
    for t in range(20):
        tickets = door.put_many([3, 1, 4, 0, 2], np.arange(15, dtype=np.float32).reshape(5, 3) / (t + 1))
        answers = [ticket.result(60) for ticket in tickets]
        assert all(a.status == "ok" and a.late_us < 0 for a in answers), answers
        print(*(repr(float(v)) for a in answers for v in a.y))
assert "torch" not in sys.modules
"""


def test_another_process_gets_what_the_model_gives(name: str) -> None:
    live, alone = make(), make()
    with rt.StreamBatcher(live, deadline_us=FAR_US) as hub:
        door = hub.share(name)
        process = python(PUTS, name)
        said = [[float(v) for v in line.split()] for line in process.communicate(timeout=120)[0].splitlines()]
        assert process.returncode == 0
        until(lambda: door.stats().clients == 0)
        stats = door.stats()
    assert (stats.put, stats.answered, stats.refused, stats.died) == (100, 100, 0, 0)
    assert len(said) == 20
    for t, row in enumerate(said):
        x = torch.arange(15, dtype=torch.float32).reshape(5, 3) / (t + 1)
        expected = alone.step(x, streams=[3, 1, 4, 0, 2])
        # Rows that lie otherwise in a batch are added in another order.
        np.testing.assert_allclose(np.array(row, np.float32).reshape(5, 4), expected, rtol=0, atol=1e-6)


def test_both_sides_put_and_the_newest_stays(name: str) -> None:
    """A sample here replaces one that came through the door, and the other way."""
    with rt.StreamBatcher(make(), deadline_us=FAR_US) as hub:
        hub.share(name)
        with rt.StreamBatcher.connect(name) as door:
            first = door.put(2, [1.0, 1.0, 1.0])
            until(lambda: hub.stats().put == 1)
            second = hub.put(2, torch.ones(3))
            assert first.result(60).status == "replaced"
            third = door.put(2, np.ones(3, np.float32))
            assert second.result(60).status == "replaced"
            assert third.result(0).status == "waiting"
            assert hub.reset(2) == [2]
            assert third.result(60) == (None, "replaced", pytest.approx(float("nan"), nan_ok=True))
            with pytest.raises(UnsupportedProblem, match="again"):
                third.result(0)
            old = door.put(0, np.ones(3, np.float32), stamp_ns=time.monotonic_ns() - 10**11)
            answer = old.result(60)  # it was late when it came
            assert answer.status == "late"
            assert answer.late_us > 0


BAD: dict[str, tuple[type, Any]] = {
    "a stream that there is not": (ShapeError, lambda door: door.put(5, np.ones(3, np.float32))),
    "a negative stream": (ShapeError, lambda door: door.put(-1, np.ones(3, np.float32))),
    "no number": (ShapeError, lambda door: door.put("0", np.ones(3, np.float32))),
    "a shape": (ShapeError, lambda door: door.put(0, np.ones(4, np.float32))),
    "a dtype": (ShapeError, lambda door: door.put(0, np.ones(3))),
    "rows": (ShapeError, lambda door: door.put_many([0, 1], np.ones((3, 3), np.float32))),
    "streams that are no list of int64": (ShapeError, lambda door: door.put_many([[0]], np.ones((1, 3), np.float32))),
    "a stamp after now": (FormatError, lambda door: door.put(0, np.ones(3, np.float32), time.monotonic_ns() + 10**12)),
    "a stamp below 0": (FormatError, lambda door: door.put(0, np.ones(3, np.float32), -1)),
    "a stamp that is none": (FormatError, lambda door: door.put(0, np.ones(3, np.float32), 0.5)),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_puts(case: str, name: str) -> None:
    kind, call = BAD[case]
    with rt.StreamBatcher(make(), deadline_us=FAR_US) as hub:
        hub.share(name)
        with rt.StreamBatcher.connect(name) as door, pytest.raises(kind):
            call(door)
        assert hub.stats().put == 0


def test_what_cannot_be_shared_or_joined(name: str) -> None:
    with pytest.raises(FormatError, match=r"nobody has opened|No such file"):
        rt.StreamBatcher.connect(name)
    with rt.StreamBatcher(make(), deadline_us=FAR_US) as hub:
        hub.share(name)
        for call in (rt.StreamBatcher.connect, hub.share):  # C would read it as the name that there is
            with pytest.raises(FormatError, match="zero character"):
                call(name + "\0b")
    for bad in ("", "a/b", "x" * 300, 7):
        with pytest.raises(FormatError):
            rt.StreamBatcher.connect(bad)  # type: ignore[arg-type]
    hub = rt.StreamBatcher(make(), deadline_us=FAR_US)
    with pytest.raises(UnsupportedProblem, match="does not run"):
        hub.share(name)
    with hub, rt.StreamBatcher(make(), deadline_us=FAR_US) as other:
        hub.share(name, clients=1)
        for call in (lambda: hub.share(name + "-2"), lambda: other.share(name), lambda: other.share("a b")):
            with pytest.raises(FormatError):
                call()
        for given in ({"clients": 0}, {"places": 0}, {"clients": 2000}):
            with pytest.raises(FormatError):
                other.share(name + "-2", **given)
        first = rt.StreamBatcher.connect(name)
        with pytest.raises(FormatError, match="lanes are taken"):
            rt.StreamBatcher.connect(name)
        first.close()
        with pytest.raises(UnsupportedProblem, match="closed"):
            first.put(0, [1.0, 2.0, 3.0])
        joined: list[BatcherClient] = []

        def again() -> bool:
            try:
                joined.append(rt.StreamBatcher.connect(name))
            except FormatError:
                return False
            return True

        until(again)
        joined[0].close()
    with (
        rt.StreamBatcher(make(), deadline_us=FAR_US, on_result=print) as third,
        pytest.raises(FormatError, match="tickets"),
    ):
        third.share(name)


def test_places_run_out_and_forgotten_tickets_give_theirs_back(name: str) -> None:
    with rt.StreamBatcher(make(), deadline_us=FAR_US) as hub:
        hub.share(name, places=4)
        with rt.StreamBatcher.connect(name) as door:
            x = np.ones((6, 3), np.float32)
            tickets = door.put_many([0, 1, 2, 3, 0, 1], x)
            assert [t.result(0).status for t in tickets] == ["waiting"] * 4 + ["full"] * 2
            del tickets
            hub.put(4, torch.ones(3)).result(60)  # all five are there: the batch leaves
            until(lambda: door.put(0, x[0]).result(0).status == "waiting")
            hub.reset(range(5))


HANGS = """
import sys, time
import numpy as np
from rtaccel.serve.door import BatcherClient
door = BatcherClient(sys.argv[1])
tickets = door.put_many([0, 1], np.ones((2, 3), np.float32))
print("put", flush=True)
time.sleep(600)
"""


def test_a_client_that_is_killed_is_stepped_and_leaves_its_lane(name: str) -> None:
    live, alone = make(), make()
    with rt.StreamBatcher(live, deadline_us=FAR_US) as hub:
        door = hub.share(name, clients=1)
        process = python(HANGS, name)
        assert process.stdout is not None
        assert process.stdout.readline() == "put\n"
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
        assert [t.result(60).status for t in hub.put_many([2, 3, 4], torch.ones(3, 3))] == ["ok"] * 3
        until(lambda: door.stats().died == 1)
        with rt.StreamBatcher.connect(name) as again:  # the lane is free
            assert again.put(0, [1.0, 2.0, 3.0]).result(0).status == "waiting"
            until(lambda: door.stats().put == 3)  # what a stop finds untaken is not stepped
            hub.put_many([1, 2, 3, 4], torch.ones(4, 3))
    alone.step(torch.ones(5, 3))
    x = torch.ones(5, 3)
    x[0] = torch.tensor([1.0, 2.0, 3.0])
    alone.step(x)
    torch.testing.assert_close(live.step(torch.ones(5, 3)), alone.step(torch.ones(5, 3)), rtol=0, atol=1e-6)


def test_a_batcher_that_stops_is_gone_for_its_clients(name: str) -> None:
    hub = rt.StreamBatcher(make(), deadline_us=FAR_US).start()
    hub.share(name)
    door = rt.StreamBatcher.connect(name)
    waiting = door.put(1, np.ones(3, np.float32))
    until(lambda: hub.stats().put == 1)
    hub.stop()
    assert waiting.result(60).status == "ok"  # stop drains
    with pytest.raises(UnsupportedProblem, match="ended"):
        door.put(1, np.ones(3, np.float32))
    door.close()


HOSTS = """
import sys, time
import torch
import rtaccel as rt
live = rt.stream(torch.nn.GRU(3, 4, batch_first=True).eval(), torch.randn(5, 3))
hub = rt.StreamBatcher(live, deadline_us=60e6).start()
hub.share(sys.argv[1])
print("open", flush=True)
time.sleep(600)
"""


def test_a_host_that_is_killed_is_gone_and_another_takes_the_name(name: str) -> None:
    process = python(HOSTS, name)
    assert process.stdout is not None
    assert process.stdout.readline() == "open\n"
    door = rt.StreamBatcher.connect(name)
    ticket = door.put(0, np.ones(3, np.float32))
    with pytest.raises(FormatError), rt.StreamBatcher(make(), deadline_us=FAR_US) as other:
        other.share(name)  # it lives
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    start = time.monotonic()
    with pytest.raises(UnsupportedProblem, match="ended"):
        ticket.result(60)
    assert time.monotonic() - start < 30  # it is looked for now and then, and not at the end of the timeout
    with pytest.raises(UnsupportedProblem, match="ended"):
        door.put(0, np.ones(3, np.float32))
    with pytest.raises(FormatError, match="ended"):
        rt.StreamBatcher.connect(name)
    with rt.StreamBatcher(make(1), deadline_us=FAR_US) as hub:
        hub.share(name)
        with rt.StreamBatcher.connect(name) as fresh:
            assert fresh.put(0, [1.0, 2.0, 3.0]).result(60).status == "ok"
    door.close()


def test_a_child_does_not_use_its_parents_lane(name: str) -> None:
    with rt.StreamBatcher(make(1), deadline_us=FAR_US) as hub:
        hub.share(name)
        code = (
            "import os, sys, numpy as np\n"
            "from rtaccel.serve.door import BatcherClient\n"
            "door = BatcherClient(sys.argv[1])\n"
            "if os.fork() == 0:\n"
            "    try:\n        door.put(0, np.ones(3, np.float32))\n"
            "    except BaseException as error:\n        os._exit(7 if 'fork' in str(error) else 8)\n"
            "    os._exit(9)\n"
            "child = os.waitstatus_to_exitcode(os.wait()[1])\n"
            "assert door.put(0, np.ones(3, np.float32)).result(60).status == 'ok'\n"
            "sys.exit(child)\n"
        )
        process = python(code, name)
        process.communicate(timeout=60)
        assert process.returncode == 7


@pytest.mark.parametrize("seed", range(3))
def test_nothing_that_is_written_there_is_believed(name: str, seed: int) -> None:
    """Another program writes over lanes and places at random: the batcher goes on, and its own callers get their answers."""
    rng = np.random.default_rng(seed)
    live, alone = make(1), make(1)
    with rt.StreamBatcher(live, deadline_us=FAR_US) as hub:
        hub.share(name, clients=2, places=8)
        with rt.StreamBatcher.connect(name):
            file = os.open(SHARED / f"rta.{name}", os.O_RDWR)
            with mmap.mmap(file, 0) as memory:
                owner = 512  # behind the head: the first lane, whose owner is left so that it is served
                for _ in range(300):
                    at = int(rng.integers(owner + 8, len(memory) - 8)) // 4 * 4
                    value = int(rng.choice([0, 1, 2, 7, 2**31 - 1, 2**32 - 1, int(rng.integers(2**32))]))
                    memory[at : at + 4] = struct.pack("<I", value)
                    if rng.random() < 0.1:
                        time.sleep(0.002)
            os.close(file)
            x = torch.ones(1, 3)
            hub.reset(0)
            answers = [hub.put(0, x[0]).result(60) for _ in range(3)]
        assert all(a.status in ("ok", "replaced") for a in answers)
        assert hub.stats().put >= 3
    assert torch.isfinite(live.step(x)).all()
    assert alone.step(x).shape == (1, 4)


def test_threads_of_a_client(name: str) -> None:
    count, puts = 12, 2000
    with rt.StreamBatcher(make(count), deadline_us=500) as hub:
        hub.share(name)
        with rt.StreamBatcher.connect(name) as door:
            statuses: list[str] = []

            def caller(number: int) -> None:
                for i in range(puts // 10):
                    own = np.arange(number, count, 4)
                    tickets = door.put_many(own, np.full((len(own), 3), i / puts, np.float32))
                    statuses.extend(ticket.result(60).status for ticket in tickets)

            threads = [threading.Thread(target=caller, args=(i,)) for i in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        stats = hub.stats()
    assert len(statuses) == count * (puts // 10) == stats.put
    assert set(statuses) <= {"ok", "late"}


def test_kills_lose_and_double_nothing() -> None:
    """`python -m bench.soak.kills`, for a moment."""
    found = run(300_000, processes=3, streams=600, kill_s=0.8, deadline_us=3000)
    assert found["faults"] == []
    assert found["clients"]["wrong"] == 0
    assert found["clients"]["ok"] + found["clients"]["late"] > 0
