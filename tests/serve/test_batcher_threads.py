"""Many threads put at once: nothing is lost, doubled or called in time when late, and streams step as they would alone."""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import Any

import numpy as np
import torch

import rtaccel as rt
from rtaccel import _native as native
from rtaccel.serve.answer import STATUSES

THREADS = 4
OK, LATE = 0, 1


def make(streams: int) -> rt.StreamModel:
    torch.manual_seed(2)
    """In int8, where the number of rows of a call does not change the order of sums: the bits are to be the same."""
    model, windows = torch.nn.GRU(2, 4, batch_first=True).eval(), torch.rand(16, 20, 2)
    return rt.stream(model, torch.randn(streams, 2), scheme="w8a8", calibration=[windows])


def sample(streams: Any, stamps: Any) -> torch.Tensor:
    """The sample of a stream that has this stamp: what was stepped can be told from the stamp of its answer."""
    mixed = (np.asarray(stamps) * 2654435761 + np.asarray(streams) * 40503) % 1000003
    return torch.from_numpy(np.stack([mixed / 1000003, (mixed * 7 % 1009) / 1009], -1).astype(np.float32))


def unique_stamp(thread: int) -> int:
    return time.monotonic_ns() // THREADS * THREADS - THREADS + thread


def check_against_streams_alone(streams: np.ndarray, stamps: np.ndarray, y: torch.Tensor, count: int) -> None:
    """Each stream's answers in the order of their stamps are those of a stream that takes its samples alone."""
    order = np.lexsort((stamps, streams))
    streams, stamps, y = streams[order], stamps[order], y[torch.from_numpy(order)]
    assert len(set(zip(streams.tolist(), stamps.tolist(), strict=True))) == len(streams)  # none twice
    starts = np.flatnonzero(np.r_[True, streams[1:] != streams[:-1]])
    place = np.arange(len(streams)) - np.repeat(starts, np.diff(np.r_[starts, len(streams)]))
    x, alone = sample(streams, stamps), make(count)
    for step in range(int(place.max()) + 1):
        rows = torch.from_numpy(np.flatnonzero(place == step))
        got = alone.step(x[rows], streams=torch.from_numpy(streams[rows.numpy()]))
        assert torch.equal(got, y[rows]), step
    one = make(count)  # and a few of them one by one
    for stream in np.unique(streams)[:3]:
        for row in np.flatnonzero(streams == stream)[:200]:
            assert torch.equal(one.step(x[row : row + 1], streams=[int(stream)])[0], y[row])


def test_tickets_of_several_threads() -> None:
    """100,000 puts through Python, each answer taken."""
    count, puts = 37, 25_000
    found: list[tuple[int, int, Any]] = []
    hub = rt.StreamBatcher(make(count), deadline_us=300, tickets=1000)

    def caller(thread: int) -> None:
        rng, waiting, mine = np.random.default_rng(thread), [], []
        for stream in rng.integers(0, count, puts).tolist():
            stamp = unique_stamp(thread)
            waiting.append((stream, stamp, hub.put(stream, sample(stream, stamp), stamp)))
            if len(waiting) >= 200:
                mine += [(s, at, t.result(60)) for s, at, t in waiting]
                waiting.clear()
        mine += [(s, at, t.result(60)) for s, at, t in waiting]
        found.extend(mine)

    with hub:
        callers = [threading.Thread(target=caller, args=(i,)) for i in range(THREADS)]
        for t in callers:
            t.start()
        for t in callers:
            t.join()
    stats, statuses = hub.stats(), Counter(a.status for *_, a in found)
    assert len(found) == THREADS * puts == stats.put + stats.full
    assert stats.full == statuses["full"]
    for status in STATUSES:
        assert getattr(stats, status) == statuses[status], status
    assert statuses["ok"] + statuses["late"] > 0
    assert "waiting" not in statuses
    for *_, answer in found:
        if answer.y is not None:
            assert answer.status == ("late" if answer.late_us > 0 else "ok")
    stepped = [(s, at, a.y) for s, at, a in found if a.y is not None]
    streams, stamps = (np.array([row[i] for row in stepped]) for i in (0, 1))
    check_against_streams_alone(streams, stamps, torch.stack([row[2] for row in stepped]), count)


def test_batches_of_several_threads() -> None:
    """A million puts without the GIL, taken batch by batch."""
    count, bunch, rounds = 3000, 500, 500
    given = {"deadline_ns": 500_000, "max_batch": 1024, "tickets": 0, "spin_ns": 20_000, "late": 0, "cpu": -1}
    hub: Any = native.Batcher(make(count)._plan(), ("float32", [2]), ("float32", [4]), {**given, "manual": 0})
    hub.start()
    batches: list[tuple[torch.Tensor, ...]] = []
    said: Counter[int] = Counter()
    rows: list[tuple[torch.Tensor, np.ndarray, torch.Tensor]] = []

    def taker() -> None:
        while (got := hub.next(50_000_000)) is not False:
            if got is not None:
                batches.append(got)
                hub.give_back()

    def caller(thread: int) -> None:
        rng = np.random.default_rng(thread)
        for _ in range(rounds):
            streams = torch.from_numpy(rng.permutation(count)[:bunch])
            stamps = np.full(bunch, unique_stamp(thread))
            codes = hub.put_many(streams, sample(streams.numpy(), stamps), torch.from_numpy(stamps))
            rows.append((streams, stamps, codes))
            said.update(codes.tolist())

    threads = [threading.Thread(target=caller, args=(i,)) for i in range(THREADS)]
    taking = threading.Thread(target=taker)
    taking.start()
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    hub.stop()
    while not hub.wait_stopped(50_000_000):
        pass
    taking.join()
    stats = hub.stats()
    assert sum(said.values()) == THREADS * bunch * rounds
    assert set(said) <= {-1, 0, 1, 2}
    assert said[-1] == stats["full"]
    assert said[1] + said[2] == stats["replaced"]
    assert stats["put"] == stats["ok"] + stats["late"] + stats["replaced"]
    streams, y, status, stamps = (torch.cat(parts) for parts in zip(*batches, strict=True))
    assert len(streams) == said[0]
    assert (int((status == OK).sum()), int((status == LATE).sum())) == (stats["ok"], stats["late"])
    put = {
        (s, at)
        for r in rows
        for s, at, c in zip(r[0].tolist(), r[1].tolist(), r[2].tolist(), strict=True)
        if c in (0, 1)
    }
    assert set(zip(streams.tolist(), stamps.tolist(), strict=True)) <= put
    for numbers, *_ in batches:
        assert 0 < len(numbers) <= 1024
        assert len(numbers.unique()) == len(numbers)
    check_against_streams_alone(streams.numpy(), stamps.numpy(), y, count)
