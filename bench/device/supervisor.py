"""Runs planned rows in processes that it can end, and writes what came of each at once.

One process measures at a time. An exception, a hang, a crash, a CUDA error that corrupts the context or memory that is not there
costs the row it happened in: the process is ended with everything below it, and the next row, in another process, starts when
nothing is left of it.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.device import processes
from bench.device.journal import Journal
from bench.device.row import CRASH, ERROR, HANG, LEFT_OUT, MEASURED, NOT_RUN, PASSED, Row
from bench.device.worker import NO_CARD, Worker

GONE_S = 20.0
"""How long a process that was killed may take to go before the card counts as held by it."""

FREE = "bench.device.rows.timing:free_mib"
"""How much memory of the card is free, in MiB."""


@dataclass
class Clock:
    """How long the run may take."""

    minutes: float
    start: float

    @classmethod
    def of(cls, minutes: float) -> Clock:
        return cls(minutes, time.monotonic())

    @property
    def at_s(self) -> float:
        return time.monotonic() - self.start

    @property
    def left_s(self) -> float:
        return max(60 * self.minutes - self.at_s, 0.0)


class Interrupted(BaseException):
    """The run is to end now, with what it has."""


class Supervisor:
    """fresh: processes are new Pythons rather than forks. environment: of processes that measure."""

    def __init__(
        self, journal: Journal, clock: Clock, log: Path, environment: Mapping[str, str] | None = None,
        free: str = FREE, tell: Callable[[str], None] = print,
    ) -> None:  # fmt: skip
        self.journal, self.clock, self.log, self.free, self._tell = journal, clock, log, free, tell
        self.environment, self.fresh = dict(environment or {}), False
        self._worker: Worker | None = None
        if not processes.become_reaper():
            journal.add(
                "note", text="this system lets no process reap its descendants: one that leaves its session may live on"
            )

    # -- rows ----------------------------------------------------------------------------------------------------------

    def run(self, rows: Sequence[Row]) -> None:
        """Every row, in order; in the end no process is left."""
        try:
            for row in rows:
                outcomes = self._row(row)
                if row.canary and not outcomes <= {MEASURED, PASSED, LEFT_OUT, NOT_RUN}:
                    self._give_up(row)
        finally:
            self._retire()

    def _give_up(self, row: Row) -> None:
        """A canary failed: what it stood for is not used from here on, and the row is run again, without it."""
        if row.canary == "fork":
            self.fresh = True
            text = "forked processes cannot use the card: each is a new Python from here on"
        else:
            self.environment["RTACCEL_KERNELS"] = os.devnull  # a folder that holds none
            text = "kernels built ahead cannot be launched: they are compiled by each row from here on"
        self.journal.add("note", text=text)
        self._tell(f"! {text}")
        self._row(row)

    def _row(self, row: Row) -> set[str]:
        """What came of its rows."""
        left = self.clock.left_s
        if left < row.estimate_s:
            why = f"{left:.3g} s are left, and it takes about {row.estimate_s:.3g}"
            self._write(row, [{"name": n, "outcome": LEFT_OUT, "error": f"left out: {why}"} for n in row.names], 0.0)
            return {LEFT_OUT}
        begin = time.monotonic()
        stuck = self._orphans()
        if stuck:
            why = f"a process of an earlier row does not end ({sorted(stuck)}) and may hold the card"
            self._write(row, [{"name": n, "outcome": NOT_RUN, "error": why} for n in row.names], 0.0)
            return {NOT_RUN}
        limit = min(row.limit_s, left)
        found, ended = self._measure(row, begin + limit, limit)
        missing = [name for name in row.names if name not in {r["name"] for r in found}]
        if ended is not None:
            for name in missing or [f"{row.name}, its end"]:
                found.append(self._write(row, [{"name": name, **ended}], time.monotonic() - begin)[0])
        return {str(r["outcome"]) for r in found}

    def _measure(self, row: Row, until: float, limit: float) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
        """(rows that came, how the process ended where it did not finish)."""
        worker, begin = self._worker_for(row), time.monotonic()
        found: list[dict[str, Any]] = []
        if not worker.give(row.task()):  # it ended after the row before
            self._retire()
            worker = self._worker_for(row)
            worker.give(row.task())
        while True:
            message = worker.receive(until)
            if message is None:
                said = worker.said()
                self._retire()
                if limit < row.limit_s:
                    return found, {
                        "outcome": LEFT_OUT,
                        "error": f"the time of the run, {self.clock.minutes:.3g} minutes, ended while it ran",
                    }
                return found, {"outcome": HANG, "error": f"no end within {limit:.3g} s", "said": said}
            if "ended" in message:
                said = worker.said()
                self._retire()
                return found, {"outcome": CRASH, "error": processes.said(message["ended"]), "said": said}
            if "row" in message:
                found += self._write(row, [message["row"]], time.monotonic() - begin)
                continue
            if not message["again"] or processes.below(worker.pid):  # a child that runs on might use the card
                self._retire()
            return found, None

    def _write(self, row: Row, found: list[dict[str, Any]], took: float) -> list[dict[str, Any]]:
        for fields in found:
            if row.check:
                fields = {**fields, "check": True}
            times = {"took_s": round(took, 3), "at_s": round(self.clock.at_s, 3)}
            self.journal.add("row", family=row.family, **fields, **times)
            self._tell(f"{self.clock.at_s:7.1f} s  {fields['name']}: {line_of(fields)}")
        return found

    # -- processes -----------------------------------------------------------------------------------------------------

    def _worker_for(self, row: Row) -> Worker:
        if self._worker is not None and (self._worker.family != row.family or not row.family):
            self._retire()
        if self._worker is None:
            self._worker = Worker(self.log, self.free, self.environment, self.fresh, row.family)
        return self._worker

    def stop(self) -> None:
        """No process is left."""
        self._retire()

    def _retire(self) -> None:
        """Ends the process that measures and all below it."""
        if self._worker is not None:
            self._worker.end()
            self._worker = None
        processes.end_others(set(), GONE_S)

    def _orphans(self) -> set[int]:
        """Ends what rows left behind; gives what does not go."""
        kept = {self._worker.pid} if self._worker is not None else set()
        return processes.end_others(kept, GONE_S) if processes.strangers(kept) else set()

    # -- kernels built ahead -------------------------------------------------------------------------------------------

    def prepare(self, rows: Sequence[Row], limit_s: float, cores: int) -> None:
        """Builds the kernels of rows, side by side on all cores, in processes that do not see the card, the most wanted
        first. What is not ready at the limit is compiled by its row."""
        self._retire()
        jobs = list(_jobs(reachable(rows, self.clock.left_s)))
        until = time.monotonic() + min(limit_s, self.clock.left_s)
        with contextlib.closing(selectors.DefaultSelector()) as selector:
            for _ in range(min(cores, len(jobs))):
                self._next_job(jobs, selector)
            while selector.get_map() and time.monotonic() < until:
                for key, _ in selector.select(min(0.2, max(until - time.monotonic(), 0))):
                    worker, row, begin = key.data
                    if self._hear(worker, row, begin):
                        selector.unregister(worker)
                        worker.end()
                        self._next_job(jobs, selector)
            late = [key.data[1].name for key in selector.get_map().values()] + [job.name for job in jobs]
            for key in list(selector.get_map().values()):
                key.data[0].end()
        processes.end_others(set(), GONE_S)
        for name in late:
            self._prepared({"name": name, "outcome": LEFT_OUT, "error": f"not built within {limit_s:.3g} s"}, 0.0)

    def _hear(self, worker: Worker, row: Row, begin: float) -> bool:
        """Whether a process that builds kernels is done with its job."""
        while True:
            message = worker.receive(time.monotonic())
            if message is None or "done" in message:
                return message is not None
            if "row" in message:
                self._prepared(message["row"], time.monotonic() - begin)
                continue
            self._prepared({"name": row.name, "outcome": CRASH, "error": processes.said(message["ended"])}, 0.0)
            return True

    def _next_job(self, jobs: list[Row], selector: selectors.BaseSelector) -> None:
        if jobs:
            row = jobs.pop(0)
            worker = Worker(self.log, self.free, {**self.environment, **NO_CARD}, self.fresh)
            worker.give(row.task())
            selector.register(worker, selectors.EVENT_READ, (worker, row, time.monotonic()))

    def _prepared(self, fields: Mapping[str, Any], took: float) -> None:
        self.journal.add("prepared", **fields, took_s=round(took, 3), at_s=round(self.clock.at_s, 3))
        if fields["outcome"] == ERROR:
            self._tell(f"{self.clock.at_s:7.1f} s  not built ahead: {fields['name']}: {fields['error']}")


def reachable(rows: Sequence[Row], left_s: float, share: float = 0.6) -> list[Row]:
    """Rows that may begin in time, if rows take this share of their estimates: for what begins never nothing is built."""
    found, used = [], 0.0
    for row in rows:
        if used > left_s:
            break
        found.append(row)
        used += share * row.estimate_s
    return found


def _jobs(rows: Sequence[Row]) -> Iterator[Row]:
    """What is to be built ahead, each once, in the order of the rows."""
    seen = set()
    for row in rows:
        key = (row.prepare, repr(sorted(row.prepare_arguments.items())))
        if row.prepare and key not in seen:
            seen.add(key)
            yield Row(row.name, row.prepare, row.prepare_arguments)


def line_of(row: Mapping[str, Any]) -> str:
    """A row in a few words."""
    if row["outcome"] != MEASURED:
        return f"{row['outcome']}: {row['error']}" if "error" in row else str(row["outcome"])
    shown = [
        f"{key.removesuffix('_us')} {row[key]:.2f} us"
        for key in ("p50_us", "p99_us", "p999_us", "device_us")
        if row.get(key)
    ]
    return ", ".join(shown) or "measured"


def cores() -> int:
    return len(os.sched_getaffinity(0))
