"""`BatchWorkers`: threads that the batchers of several models share, earliest deadline first."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from typing import Any

from rtaccel import _native as native
from rtaccel.core.errors import FormatError, UnsupportedProblem
from rtaccel.serve.stats import WorkersStats

MOST = 64


class BatchWorkers:
    """Threads for the batches of several `rt.StreamBatcher`, each of another model: `StreamBatcher(live, workers=pool)`.

    cores: a thread for each of these cores, which it stays on; or a number of threads that may run anywhere.
    priority: 1 to 99, the threads run as SCHED_FIFO with it; None: as this thread does. Where the system refuses that or a core
        they run without it, and a warning says so.

    The batch whose latest start is first goes first. A batch of n samples costs a + b n and a margin, as its batcher has
    learned. Its deadline is that of its oldest sample. From the last deadline backwards each batch gets the latest start that
    leaves time for those behind it; on one thread that is earliest deadline first (Liu and Layland 1973). A batch for which
    every stream waits goes before its time where it ends before another has to start. A batch is never interrupted.
    Where it takes longer than its cost, its batcher counts "overran"; where another model starts too late for it, that one's
    counts "held_up". Nobody starves: deadlines of what waits come nearer, and those of new samples do not.

    `with` stops them at the end. Raises FormatError for settings that there are not, UnsupportedProblem from `stop` while a
    batcher uses them.

    Example:
        >>> import torch, rtaccel as rt
        >>> def live(units):
        ...     return rt.stream(torch.nn.GRU(3, units, batch_first=True).eval(), torch.randn(8, 3))
        >>> with rt.BatchWorkers(1) as pool:
        ...     with rt.StreamBatcher(live(4), 2000, workers=pool) as a, rt.StreamBatcher(live(5), 5000, workers=pool) as b:
        ...         tickets = [a.put(5, torch.ones(3)), b.put(0, torch.ones(3))]
        ...         shapes = [ticket.result().y.shape for ticket in tickets]
        >>> shapes
        [torch.Size([4]), torch.Size([5])]
    """

    def __init__(self, cores: int | Iterable[int] = 1, *, priority: int | None = None) -> None:
        bad = FormatError("BatchWorkers", f"cores={cores!r}", f"1 to {MOST} cores, or how many threads", "Pass some.")
        if isinstance(cores, int):
            chosen: list[Any] = [-1] * cores if not isinstance(cores, bool) and 0 < cores <= MOST else []
        else:
            chosen = list(cores)
            if any(isinstance(c, bool) or not isinstance(c, int) or not 0 <= c < 4096 for c in chosen):
                raise bad
        if not 0 < len(chosen) <= MOST:
            raise bad
        if priority is not None and (
            isinstance(priority, bool) or not isinstance(priority, int) or not 0 < priority < 100
        ):
            raise FormatError("BatchWorkers", f"priority={priority!r}", "1 to 99, or None", "Pass a number.")
        self._pid, self._threads = os.getpid(), len(chosen)
        self._native = native.Workers(chosen, priority or 0, False)
        self._stopped = False
        if refused := self._native.refused():
            warnings.warn(f"the workers run without what the system refused ({refused})", UserWarning, stacklevel=2)

    def stop(self) -> None:
        """Ends the threads. Raises UnsupportedProblem while a batcher uses them, and nothing has changed."""
        if os.getpid() == self._pid and not self._stopped and not self._native.stop():
            raise UnsupportedProblem(
                "stop",
                f"workers of {self.stats().batchers} batchers that run",
                "workers without batchers",
                "Stop them.",
            )
        self._stopped = True

    def stats(self) -> WorkersStats:
        """What was counted so far; each batcher's own `stats` says how its model fares."""
        return WorkersStats(*self._native.stats())

    @property
    def running(self) -> bool:
        """Whether its threads run."""
        return not self._stopped and os.getpid() == self._pid

    def __enter__(self) -> BatchWorkers:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        try:
            self.stop()
        except UnsupportedProblem:
            if kind is None:
                raise

    def __repr__(self) -> str:
        return f"BatchWorkers({self._threads} threads, {'running' if self.running else 'not running'})"


def native_of(workers: Any, cpu: Any) -> Any:
    """Their native side. Raises FormatError for anything else, and for workers that do not run."""
    if not isinstance(workers, BatchWorkers):
        raise FormatError("StreamBatcher", f"workers={workers!r}", "an rt.BatchWorkers, or None", "Make one.")
    if cpu is not None:
        raise FormatError("StreamBatcher", "cpu and workers", "one of them", "Give the workers their cores.")
    if not workers.running:
        raise FormatError("StreamBatcher", f"{workers!r}", "workers that run", "Make new ones.")
    return workers._native
