"""A blocking function as a remote: it runs in threads, and its answers are waited for."""

from __future__ import annotations

import queue
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from rtaccel.core.errors import FormatError, UnsupportedProblem


class Function:
    """function(*inputs) -> the answer, or raises. threads: calls of it that may run at once; one more is refused, not queued."""

    def __init__(self, function: Callable[..., Any], threads: int = 4) -> None:
        if not callable(function):
            raise FormatError("Hedged", f"remote={function!r}", "a Remote, or a function", "Pass one.")
        if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
            raise FormatError("Hedged", f"threads={threads!r}", "a positive number", "4 is a good start.")
        self._function, self._threads = function, threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="rtaccel-hedge")
        self._answers: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
        self._running: set[Future[Any]] = set()
        self._next = 0

    def post(self, *inputs: Any) -> int:
        """Calls the function in a thread. Raises UnsupportedProblem where all threads are busy."""
        self._running = {f for f in self._running if not f.done()}
        if len(self._running) >= self._threads:
            raise UnsupportedProblem(
                "Hedged", f"{self._threads} calls that are still running", "a free thread", "Wait."
            )
        self._next += 1
        self._running.add(self._pool.submit(self._run, self._next, inputs))
        return self._next

    def _run(self, number: int, inputs: tuple[Any, ...]) -> None:
        try:
            answer = self._function(*inputs)
        except Exception:
            answer = None  # the call fails, as that of a remote that could not compute
        self._answers.put((number, answer))

    def take(self, timeout_s: float = 0.0) -> tuple[int, Any] | None:
        """The next answer, or None after the time."""
        try:
            return self._answers.get(timeout=timeout_s) if timeout_s > 0 else self._answers.get_nowait()
        except queue.Empty:
            return None

    def close(self) -> None:
        """Begins nothing more."""
        self._pool.shutdown(wait=False, cancel_futures=True)
