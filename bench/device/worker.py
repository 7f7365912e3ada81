"""A process that measures rows, one after the other, and its handle in the process that supervises it.

It is forked from a process that has imported everything and has touched no CUDA, so it is there in milliseconds, with a CUDA
context of its own once it needs one. `fresh` starts a new Python instead, where a forked one turns out not to work. Tasks go in
and answers come out as lines of JSON through pipes; what it prints goes into a log.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import json
import os
import selectors
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.device import processes
from bench.device.row import ERROR, FAILED, MEASURED, MEMORY, NOT_RUN, PASSED, STICKY, resolve
from rtaccel.backends import cuda_errors
from rtaccel.core.errors import BackendUnavailable, RtaccelError

NO_CARD = {"CUDA_VISIBLE_DEVICES": ""}
"""Environment of processes that build kernels: none of them may take memory of the card."""

TAIL = 2000
"""Characters of the log that a row keeps where its process ended."""


# -- in the process ----------------------------------------------------------------------------------------------------


def outcome_of(error: BaseException) -> tuple[str, str]:
    """(outcome, text) of what a row raised. The causes are looked at too: a typed error may stand for CUDA's own."""
    text = f"{type(error).__name__}: {error}".splitlines()[0]
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, MemoryError) or cuda_errors.is_out_of_memory(seen):
            return MEMORY, text
        if cuda_errors.is_sticky(seen):
            return STICKY, text
        seen = seen.__cause__ or seen.__context__
    return (STICKY, text) if cuda_errors.dead() is not None else (ERROR, text)


def is_harmless(error: BaseException) -> bool:
    """Whether a process may go on after it: a problem that is refused leaves nothing on the card."""
    return isinstance(error, RtaccelError) and not isinstance(error, BackendUnavailable)


def results(task: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Rows of one task as they come, with their outcomes."""
    found = resolve(task["measure"])(**task["arguments"])
    for fields in [found] if isinstance(found, Mapping) else found:
        row = {"name": task["name"], **fields}
        if "outcome" not in row:
            good = {True: PASSED, False: FAILED}
            row["outcome"] = good[row["passed"]] if "passed" in row else ERROR if "error" in row else MEASURED
        yield row


def do(task: Mapping[str, Any], answer: Callable[..., None], free_mib: Callable[[], int]) -> bool:
    """One task. Whether the process may take another one."""
    needed = task["memory_mib"]
    try:
        if needed and free_mib() < needed:
            answer(row={
                "name": task["name"], "outcome": NOT_RUN,
                "error": f"needs {needed} MiB of the card's memory, {free_mib()} MiB are free",
            })  # fmt: skip
            return True
        for row in results(task):
            answer(row=row)
    except Exception as error:  # of as many types as there are libraries
        traceback.print_exc()
        outcome, text = outcome_of(error)
        answer(row={"name": task["name"], "outcome": outcome, "error": text})
        return outcome == ERROR and is_harmless(error)
    finally:
        gc.collect()
    return True


def serve(tasks: int, answers: int, free_target: str) -> None:
    """Tasks until the pipe ends."""
    faulthandler.enable()

    def answer(**message: Any) -> None:
        os.write(answers, (json.dumps(message, default=str) + "\n").encode())

    def free_mib() -> int:
        return int(resolve(free_target)())

    with os.fdopen(tasks) as lines:
        for line in lines:
            task = json.loads(line)
            print(f"--- {task['name']}", flush=True)
            answer(done=True, again=do(task, answer, free_mib))


def _child(parent: int, log: Path, environment: Mapping[str, str]) -> None:
    """What both ways of starting do first."""
    os.setsid()
    processes.die_with_parent(parent)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    written = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(written, stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.update(environment)


# -- in the supervisor -------------------------------------------------------------------------------------------------


class Worker:
    """A process that was started. Its affinity is what the supervisor had: every core."""

    def __init__(
        self, log: Path, free: str, environment: Mapping[str, str] | None = None, fresh: bool = False, family: str = ""
    ) -> None:
        self.family, self.log = family, log
        task_end, self._tasks = os.pipe()
        self._answers, answer_end = os.pipe()
        self._buffer, self._parent = b"", os.getpid()
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.close(self._tasks)
                os.close(self._answers)
                _child(self._parent, log, environment or {})
                if fresh:
                    for end in (task_end, answer_end):
                        os.set_inheritable(end, True)
                    words = [sys.executable, "-m", "bench.device.worker", str(task_end), str(answer_end), free]
                    os.execve(sys.executable, words, dict(os.environ))
                serve(task_end, answer_end, free)
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(70)
        processes.forget(self.pid)
        os.close(task_end)
        os.close(answer_end)
        self._start_of_log = log.stat().st_size if log.exists() else 0
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._answers, selectors.EVENT_READ)

    def give(self, task: Mapping[str, Any]) -> bool:
        """Whether it took the task; not where it has ended."""
        self._start_of_log = self.log.stat().st_size if self.log.exists() else 0
        try:
            os.write(self._tasks, (json.dumps(task) + "\n").encode())
        except BrokenPipeError:
            return False
        return True

    def fileno(self) -> int:
        return self._answers

    def receive(self, until: float) -> dict[str, Any] | None:
        """The next answer; {"ended": status} where the process ended, None where there is none until then."""
        while True:
            line, found, rest = self._buffer.partition(b"\n")
            if found:
                self._buffer = rest
                message: dict[str, Any] = json.loads(line)
                return message
            # Only the process itself counts: a child of it may keep the pipe open. What it wrote before it ended comes first.
            status = processes.status_of(self.pid)
            left = max(until - time.monotonic(), 0.0)
            ready = self._selector.select(0 if status is not None else min(left, 0.2))
            part = os.read(self._answers, 1 << 16) if ready else b""
            self._buffer += part
            if part:
                continue
            if status is not None:
                return {"ended": status}
            if ready:  # its end of the pipe is closed, and it is about to end
                time.sleep(0.005)
            if left == 0:
                return None

    def said(self) -> str:
        """The end of what it printed for its last task."""
        with contextlib.suppress(OSError), self.log.open("rb") as file:
            file.seek(max(self._start_of_log, self.log.stat().st_size - TAIL))
            return file.read().decode(errors="replace").strip()
        return ""

    def end(self) -> None:
        """Kills it and closes the pipes. What is below it is for processes.end_others."""
        self._selector.close()
        for end in (self._tasks, self._answers):
            os.close(end)
        if processes.status_of(self.pid) is None:
            os.kill(self.pid, signal.SIGKILL)


if __name__ == "__main__":
    serve(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
