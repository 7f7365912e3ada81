"""Interleaved rounds over processes: the parent hands out the turn, so only one of them computes at any time."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.peers.base import Peer

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Timing:
    """round_us: how long a runner's turn should take. At least `least` calls, at most `most`."""

    rounds: int = 20
    round_us: float = 4000
    least: int = 5
    most: int = 300
    cold: bool = False
    core: int = 0
    lock: Path | None = None

    def calls(self, estimate_ns: float) -> int:
        if self.cold:
            return self.least
        return max(self.least, min(self.most, int(self.round_us * 1e3 / max(estimate_ns, 1))))


@dataclass
class Process:
    """A runner's process and what it said of itself. samples_ns: one list per round."""

    peer: Peer
    pipe: subprocess.Popen[str]
    said: dict[str, Any] = field(default_factory=dict)
    samples_ns: list[list[int]] = field(default_factory=list)

    def hear(self) -> dict[str, Any]:
        assert self.pipe.stdout is not None
        line = self.pipe.stdout.readline()
        if not line:
            return {"left_out": f"its process ended with status {self.pipe.wait()}"}
        heard: dict[str, Any] = json.loads(line)
        return heard

    def ask(self, message: dict[str, Any]) -> dict[str, Any]:
        assert self.pipe.stdin is not None
        try:
            self.pipe.stdin.write(json.dumps(message) + "\n")
            self.pipe.stdin.flush()
        except BrokenPipeError:
            return {"left_out": f"its process ended with status {self.pipe.wait()}"}
        return self.hear()

    def close(self) -> None:
        assert self.pipe.stdin is not None and self.pipe.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.pipe.stdin.close()
        self.pipe.stdout.close()
        self.pipe.wait()


def start(
    what: str, peer: Peer, model: str, folder: Path, key: str, python: str, core: int | None, log: Any
) -> Process:
    """python: the interpreter to run it with, where a peer lives in an environment of its own."""
    command = [python, "-m", "bench.peers.worker", what, peer.name, model, str(folder.resolve()), key]
    if core is not None:
        command.append(str(core))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    pipe = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=environment, cwd=folder
    )
    return Process(peer, pipe)


def convert(peer: Peer, model: str, folder: Path, key: str, python: str, log: Any) -> dict[str, Any]:
    process = start("convert", peer, model, folder, key, python, None, log)
    record = process.hear()
    process.close()
    return record


def measure(
    chosen: Sequence[Peer], model: str, folder: Path, key: str, pythons: Mapping[str, str], timing: Timing, log: Any
) -> list[Process]:
    """Every peer's process with its samples, or with the reason why it has none."""
    processes = []
    for peer in chosen:
        process = start("time", peer, model, folder, key, pythons.get(peer.kit, sys.executable), timing.core, log)
        process.said = process.hear()  # one after the other: loading is work too
        processes.append(process)
    ready = [p for p in processes if "left_out" not in p.said]
    order = random.Random(0)
    with _alone(timing.lock):
        for _ in range(timing.rounds):
            order.shuffle(ready)
            for process in list(ready):
                calls = timing.calls(process.said["estimate_ns"])
                got = process.ask({"calls": calls, "warm": max(2, calls // 10), "cold": timing.cold})
                if "ns" in got:
                    process.samples_ns.append(got["ns"])
                else:
                    process.said = got
                    ready.remove(process)
    for process in processes:
        process.close()
    return processes


@contextlib.contextmanager
def _alone(lock: Path | None) -> Iterator[None]:
    """Holds a lock file while timing, so that benchmarks on one machine take turns."""
    if lock is None:
        yield
        return
    with lock.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
