"""Latencies of the zoo: each network in every runtime that takes it, interleaved, each in a process with a limit of time."""

from __future__ import annotations

import contextlib
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.peers.base import Peer
from bench.peers.results import Row, summarise
from bench.peers.rounds import Process, Timing, start, take_turns
from bench.zoo.entry import Entry

WORKER = "bench.zoo.timing"
TIMING = Timing(rounds=12, round_us=20_000)
"""Fewer and longer rounds than those of bench/peers: the networks are larger, and there are many."""


def run_all(
    chosen: Sequence[Entry],
    peers: Sequence[Peer],
    timing: Timing,
    record: dict[str, Any],
    save: Callable[[Mapping[str, Any]], None],
    limit: float,
) -> None:
    """Measures one network after the other into record["networks"], saved after each."""
    networks = record.setdefault("networks", {})
    for number, entry in enumerate(chosen, 1):
        rows, used = run_one(entry, peers, timing, limit)
        networks[entry.name] = [row.as_json() for row in rows]
        record.setdefault("environment", {}).setdefault("versions", {}).update(used)
        save(record)
        told = ", ".join(f"{row.title} {row.best_us:.1f}" for row in rows if row.best_us is not None)
        print(f"{number}/{len(chosen)} {entry.name}: {told or rows[0].left_out}", flush=True)


def run_one(
    entry: Entry, peers: Sequence[Peer], timing: Timing, limit: float
) -> tuple[list[Row], dict[str, str | None]]:
    """A row per runtime, and the versions that they named. Where the network itself is not to be had, every row says why."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (folder / "log.txt").open("w") as log:
            first = start("prepare", peers[0], entry.name, folder, "-", sys.executable, None, log, WORKER)
            said = hear(first, limit)
            first.close()
            if "left_out" in said:
                return [Row(p.name, p.title, p.ours, left_out=said["left_out"]) for p in peers], {}
            processes = []
            for peer in peers:
                process = start("time", peer, entry.name, folder, "-", sys.executable, timing.core, log, WORKER)
                process.said = hear(process, limit)  # one after the other: loading is work too
                processes.append(process)
            with limited(processes, limit):
                take_turns(processes, timing)
            for process in processes:
                process.close()
    used = {k: v for process in processes for k, v in process.said.get("versions", {}).items()}
    return [
        summarise(p.peer.name, p.peer.title, p.peer.ours, p.said, p.samples_ns, (), p.forms_ns) for p in processes
    ], used


def hear(process: Process, limit: float) -> dict[str, Any]:
    """What the process says first; one that says nothing within `limit` seconds is ended."""
    with limited([process], limit) as late:
        said = process.hear()
    return {"left_out": f"not ready after {limit:.0f} s"} if late.is_set() else said


@contextlib.contextmanager
def limited(processes: Sequence[Process], limit: float) -> Iterator[threading.Event]:
    """Ends the processes after `limit` seconds, and tells so by the event."""
    late = threading.Event()

    def end() -> None:
        late.set()
        for process in processes:
            process.pipe.kill()

    timer = threading.Timer(limit, end)
    timer.start()
    try:
        yield late
    finally:
        timer.cancel()
