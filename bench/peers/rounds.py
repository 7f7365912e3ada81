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
from rtaccel.core.settings import TEST_DATA, test_data

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Timing:
    """round_us: how long a runner's turn should take. At least `least` calls, at most `most`.

    cold_rounds: further rounds of `cold_calls` calls, 64 MiB read before each.
    """

    rounds: int = 20
    round_us: float = 4000
    least: int = 5
    most: int = 300
    cold_rounds: int = 0
    cold_calls: int = 10
    core: int = 0
    lock: Path | None = None

    def calls(self, estimate_ns: float) -> int:
        return max(self.least, min(self.most, int(self.round_us * 1e3 / max(estimate_ns, 1))))


@dataclass
class Process:
    """A runner's process and what it said of itself. samples_ns, cold_ns, forms_ns: one list per round."""

    peer: Peer
    pipe: subprocess.Popen[str]
    said: dict[str, Any] = field(default_factory=dict)
    samples_ns: list[list[int]] = field(default_factory=list)
    cold_ns: list[list[int]] = field(default_factory=list)
    forms_ns: dict[str, list[list[int]]] = field(default_factory=dict)

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

    def turn(self, calls: int, cold: bool) -> bool:
        """One round. False where the process is gone; `said` then says how."""
        got = self.ask({"calls": calls, "warm": max(2, calls // 10), "cold": cold})
        if "ns" not in got:
            self.said = got
            return False
        (self.cold_ns if cold else self.samples_ns).append(got["ns"])
        for name, taken in got.get("forms", {}).items():
            self.forms_ns.setdefault(name, []).append(taken)
        return True

    def close(self) -> None:
        assert self.pipe.stdin is not None and self.pipe.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.pipe.stdin.close()
        self.pipe.stdout.close()
        self.pipe.wait()


def start(
    what: str, peer: Peer, model: str, folder: Path, key: str, python: str, core: int | None, log: Any,
    worker: str = "bench.peers.worker",
) -> Process:  # fmt: skip
    """python: the interpreter to run it with, where a peer lives in an environment of its own. worker: the module to run."""
    command = [python, "-m", worker, what, peer.name, model, str(folder.resolve()), key]
    if core is not None:
        command.append(str(core))
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        TEST_DATA: str(test_data().resolve()),  # the worker stands in another folder
    }
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
    take_turns(processes, timing)
    for process in processes:
        process.close()
    return processes


def take_turns(processes: Sequence[Process], timing: Timing) -> None:
    """Interleaved rounds of those that have loaded, in another order each time; one that ends on the way drops out."""
    ready = [p for p in processes if "left_out" not in p.said]
    order = random.Random(0)
    with _alone(timing.lock):
        for number in range(timing.rounds + timing.cold_rounds):
            order.shuffle(ready)
            cold = number >= timing.rounds
            for process in list(ready):
                calls = timing.cold_calls if cold else timing.calls(process.said["estimate_ns"])
                if not process.turn(calls, cold):
                    ready.remove(process)


@contextlib.contextmanager
def _alone(lock: Path | None) -> Iterator[None]:
    """Holds a lock file while timing, so that benchmarks on one machine take turns."""
    if lock is None:
        yield
        return
    with lock.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
