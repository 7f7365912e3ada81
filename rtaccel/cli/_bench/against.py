"""Two versions in one interleaved run: a process for each, which take turns round by round, in random order.

Where a process happens to put its memory can move a microsecond's call by some per cent for as long as it lives. So the
rounds are divided among several pairs of fresh processes, and a difference has to show through all of them.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from rtaccel.core.errors import UnsupportedProblem
from rtaccel.measure.interleave import Interleaved, Ratio
from rtaccel.measure.verdict import Verdict

HERE, THERE = "here", "there"

TURN_NS = 2_000_000
MIN_RATIO, MAX = 5, 200
"""Calls of a turn."""

WORKER = Path(__file__).with_name("worker.py")


@dataclass(frozen=True)
class Compared:
    """One item. here_us, there_us: median of the round medians. ratio: time here over time there, with its interval.
    left_out: why it was not measured; the figures are None then.
    """

    name: str
    verdict: Verdict | None
    here_us: float | None = None
    there_us: float | None = None
    ratio: Ratio | None = None
    left_out: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def judge(ratio: Ratio, threshold: float) -> Verdict:
    """FAIL where the whole interval says slower by more than `threshold` (0.05: 5 %), PASS where none of it does."""
    if ratio.low > 1 + threshold:
        return "FAIL"
    return "PASS" if ratio.high <= 1 + threshold else "UNDECIDED"


class Worker:
    """The process of one version."""

    def __init__(self, root: str, core: int, log: IO[str]) -> None:
        self._pipe = subprocess.Popen(
            [sys.executable, str(WORKER), root, str(core)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
        )  # fmt: skip
        self.hello = self._hear()

    def ask(self, **request: Any) -> dict[str, Any]:
        assert self._pipe.stdin is not None
        try:
            self._pipe.stdin.write(json.dumps(request) + "\n")
            self._pipe.stdin.flush()
        except BrokenPipeError:
            return {"left_out": f"its process ended with status {self._pipe.wait()}"}
        return self._hear()

    def _hear(self) -> dict[str, Any]:
        assert self._pipe.stdout is not None
        line = self._pipe.stdout.readline()
        if not line:
            return {"left_out": f"its process ended with status {self._pipe.wait()}"}
        heard: dict[str, Any] = json.loads(line)
        return heard

    def close(self) -> None:
        assert self._pipe.stdin is not None and self._pipe.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._pipe.stdin.close()
        self._pipe.stdout.close()
        self._pipe.wait()


@contextlib.contextmanager
def pair(roots: Mapping[str, str], core: int, log: IO[str], request: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """side -> (worker, names it has). Raises UnsupportedProblem where a version cannot be loaded or knows no such suite."""
    workers = {}
    try:
        for side, root in roots.items():
            workers[side] = Worker(root, core, log)
        names = {}
        for side, worker in workers.items():
            answer = worker.hello if "left_out" in worker.hello else worker.ask(**request)
            if "left_out" in answer:
                raise UnsupportedProblem("bench", f"the version {side}", "one that runs the suite", answer["left_out"])
            names[side] = answer["names"]
        yield {side: (worker, names[side]) for side, worker in workers.items()}
    finally:
        for worker in workers.values():
            worker.close()


def compare(
    roots: Mapping[str, str],
    request: Mapping[str, Any],
    rounds: int,
    processes: int,
    threshold: float,
    log: IO[str],
    progress: Callable[[Sequence[str]], contextlib.AbstractContextManager[Callable[[str], None]]],
    seed: int = 0,
) -> list[Compared]:
    """Every item that either side has. roots: HERE and THERE -> folder, or "-". request: as worker.py takes it.

    The interval of each ratio has confidence 1 - 0.01 / items, so that all hold together with 99 %.
    """
    core = max(os.sched_getaffinity(0))
    taken: dict[str, dict[str, list[list[int]]]] = {}
    calls: dict[str, int] = {}
    left_out: dict[str, str] = {}
    shuffle = random.Random(seed).shuffle
    each = -(-rounds // processes)
    names: list[str] = []
    for number in range(processes):
        with pair(roots, core, log, request) as sides:
            names = list(dict.fromkeys(name for _, known in sides.values() for name in known))
            with progress([f"pair {number + 1} of {processes}", *names]) as advance:
                for name in names:
                    if name not in left_out:
                        reason = _rounds(name, sides, each, taken, calls, shuffle)
                        if reason is not None:
                            left_out[name] = reason
                    advance(name)
    measured = [name for name in names if name not in left_out]
    confidence = 1 - 0.01 / max(len(measured), 1)
    return [
        Compared(name, None, left_out=left_out[name])
        if name in left_out
        else _compared(name, taken[name], confidence, threshold)
        for name in names
    ]


def _rounds(
    name: str,
    sides: Mapping[str, tuple[Worker, list[str]]],
    rounds: int,
    taken: dict[str, dict[str, list[list[int]]]],
    calls: dict[str, int],
    shuffle: Callable[[list[str]], None],
) -> str | None:
    """Adds the samples of these rounds; or says why not, with nothing of them to be used."""
    estimates: dict[str, float] = {}
    for side, (worker, known) in sides.items():
        answer: dict[str, Any] = worker.ask(make=name) if name in known else {"left_out": "it is not there"}
        if "left_out" in answer:
            return f"{side}: {answer['left_out']}"
        estimates[side] = answer["estimate_ns"]
    count = calls.setdefault(name, max(MIN_RATIO, min(MAX, int(TURN_NS / max(*estimates.values(), 1)))))
    order = list(sides)
    found = taken.setdefault(name, {side: [] for side in sides})
    for _ in range(rounds):
        shuffle(order)
        for side in order:
            answer = sides[side][0].ask(time=name, calls=count)
            if "left_out" in answer:
                return f"{side}: {answer['left_out']}"
            found[side].append(answer["ns"])
    return None


def _compared(name: str, taken: Mapping[str, list[list[int]]], confidence: float, threshold: float) -> Compared:
    measured = Interleaved({side: np.array(ns, dtype=np.float64) / 1e3 for side, ns in taken.items()}, 0.0)
    ratio = measured.ratio(HERE, THERE, confidence=confidence)
    return Compared(name, judge(ratio, threshold), measured.median_us(HERE), measured.median_us(THERE), ratio)
