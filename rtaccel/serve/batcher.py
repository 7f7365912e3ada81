"""`StreamBatcher`: samples of many streams, put one by one, stepped in batches within a deadline."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from rtaccel import _native as native
from rtaccel.core.errors import FormatError, ShapeError, UnsupportedProblem
from rtaccel.realtime import threads
from rtaccel.serve.answer import SLICE_NS, STATUSES, Ticket
from rtaccel.serve.batcher_settings import settings_of
from rtaccel.serve.door import BatcherClient, Door
from rtaccel.serve.members import Members
from rtaccel.serve.puts import PUTS, check_stream, refuse, stamp_of
from rtaccel.serve.stats import BatcherStats
from rtaccel.serve.stream_sides import side_of
from rtaccel.serve.workers import BatchWorkers

OnResult = Callable[[Any, Any, Any], object]


class StreamBatcher:
    """Steps many streams of one model: any thread puts samples one by one, a native thread steps them in batches.

    live: a stream of rt.stream on the CPU, with a past, or one of rt.load: then arrays are NumPy's, and torch is not needed.
        While the batcher runs it answers no other calls.
    deadline_us: a sample is to be answered within this from its stamp.
    on_result: called as on_result(streams, y, status) for each batch, in a Python thread of its own: int64 [n], [n, outputs]
        as the model gives it, and uint8 [n] of indices into `STATUSES`; y of a sample that was not stepped is NaN, or -1 in
        whole numbers. None: tickets.
    late: what becomes of a sample that is late already when its batch leaves. "answer": it is stepped; "drop": it is not, and
        its stream stands still. One that gets late while its batch computes is answered with "late" in both.
    streams: how many of the model's streams it steps, the first ones; None: all of them. The others stand still.
    max_batch: most samples of a batch; of more that wait those leave that are due first. None: all of them.
    tickets: how many answers may be outstanding, or waiting to be taken; None: four for each stream.
    behind: how many batches on_result may be behind, 1 to 4096; then no batch leaves, and puts are "full".
    spin_us: so long before a batch leaves the worker stops sleeping and watches the clock. 0: how late it wakes is learned as a
        part of the cost.
    cpu: the core that the worker stays on.
    workers: an `rt.BatchWorkers` whose threads run the batches, shared with other models; None: a thread of its own.

    A batch leaves when the slack of the oldest sample, stamp + deadline - now, has come down to what the batch will cost:
    a + b n, by exponential averages of what batches took, and a margin that about one batch in a thousand goes beyond, at most a
    quarter of the deadline. Where every stream waits, or max_batch samples do, it leaves at once. Each stream has one slot: of
    two samples before a batch the one with the newer stamp stays, the other is "replaced". Nothing queues up: a put without a
    free place is "full" and changes nothing.

    `with` starts and stops it; it starts once. Raises UnsupportedProblem for a model that cannot run so, FormatError for
    settings that there are not.

    Example:
        >>> import torch, rtaccel as rt
        >>> live = rt.stream(torch.nn.GRU(3, 4, batch_first=True).eval(), torch.randn(8, 3))
        >>> with rt.StreamBatcher(live, deadline_us=2000) as hub:
        ...     ticket = hub.put(5, torch.ones(3))
        ...     answer = ticket.result()
        >>> answer.y.shape
        torch.Size([4])
    """

    STATUSES = STATUSES

    def __init__(
        self,
        live: Any,
        deadline_us: float = 1000,
        on_result: OnResult | None = None,
        late: str = "answer",
        *,
        streams: int | None = None,
        max_batch: int | None = None,
        tickets: int | None = None,
        behind: int = 16,
        spin_us: float = 0,
        cpu: int | None = None,
        workers: BatchWorkers | None = None,
    ) -> None:
        side = side_of(live)
        settings = settings_of(
            side.streams, deadline_us, on_result, late, streams, max_batch, tickets, behind, spin_us, cpu, workers
        )
        self._side, self._streams, self._pid = side, settings["streams"], os.getpid()
        x = side.dtype, list(side.row)
        try:
            self._native = native.Batcher(side.native, x, side.output, settings)
        except ValueError as error:
            raise FormatError("StreamBatcher", str(error), "settings that fit", "See rt.StreamBatcher.") from None
        self._on_result = on_result
        self._raised: list[BaseException] = []
        self._caller: threading.Thread | None = None
        self._running = False
        self._members = Members(self._streams)
        self._door: Door | None = None

    def start(self) -> StreamBatcher:
        """Measures what batches cost (the streams are as before), and starts the worker.

        Raises UnsupportedProblem where something else runs the model, and where the batcher has run before.
        """
        self._here("start")
        if self._running:
            raise UnsupportedProblem(
                "start", "a batcher that runs", "a new batcher: a batcher starts once", "Make another batcher."
            )
        self._side.native.prefault()
        try:
            refused = self._native.start()
        except ValueError as error:
            raise UnsupportedProblem(
                "start", str(error), "a model that nothing else runs, and a new batcher", "Stop the other one."
            ) from None
        self._running = True
        threads.keep(self)
        if self._on_result is not None:
            self._caller = threading.Thread(target=self._call, name="rtaccel-results", daemon=True)
            self._caller.start()
        if refused:
            warnings.warn(f"the batcher runs without what the system refused ({refused})", UserWarning, stacklevel=2)
        return self

    def put(self, stream: int, x: Any, stamp_ns: int | None = None) -> Any:
        """Leaves a sample of one stream, to be stepped with the next batch: a Ticket, or with on_result what it came to.

        x: one row of the model's input, float32 [features] (int64 [] for indices): a tensor or a NumPy array. It is copied.
            NaN goes through the model as in a call of it.
        stamp_ns: when it was measured, in `time.monotonic_ns()`; its deadline counts from there. None: now.

        With on_result: "queued"; "replacing", an earlier sample of the stream was waiting and will get no result; "replaced", one
        with a newer stamp was there already, and this one will get none; "full", on_result is behind by as many batches as it
        may be. A ticket of a put without a place has the status "full". Raises ShapeError for a stream that there is not and
        for another shape or dtype, FormatError for a stamp after now, UnsupportedProblem where it does not run.
        """
        try:
            code = self._native.put(stream, x, native.BATCHER_NOW if stamp_ns is None else stamp_ns)
        except TypeError:
            code = native.BATCHER_UNFIT
        if code == native.BATCHER_UNFIT:
            check_stream(stream, self._streams)
            stamp = stamp_of(stamp_ns)
            code = self._native.put(stream, self._side.fitted(x, tuple(self._side.row)), stamp)
        if code < -1:
            refuse(code, stream, stamp_ns, self._streams)
        if self._on_result is not None:
            return "full" if code < 0 else PUTS[code]
        return Ticket(self._native, None if code < 0 else code, stream)

    def put_many(self, streams: Sequence[int] | Any, x: Any, stamp_ns: Any = None) -> Any:
        """As many puts, without the GIL: a list of tickets, or with on_result a dict of those rows that are not just "queued".

        streams: int64 [n] or a list; one that is named twice has two puts.
        x: [n, features] as the model takes it (int64 [n] for indices).
        stamp_ns: int64 [n], or one of all; None: now.

        Raises ShapeError, FormatError and UnsupportedProblem as `put`; the rows that are not at fault have then been put.
        """
        chosen = self._side.fitted_list("streams", streams)
        stamps: Any = native.BATCHER_NOW if stamp_ns is None else stamp_ns
        if not isinstance(stamps, int) or isinstance(stamps, bool):
            stamps = self._side.fitted_list("stamp_ns", stamps)
        elif stamp_ns is not None:
            stamp_of(stamps)
        codes = self._native.put_many(chosen, x, stamps)
        if codes is None:
            codes = self._native.put_many(chosen, self._side.fitted(x, (len(chosen), *self._side.row)), stamps)
        if codes is None:
            raise ShapeError(
                "put_many", f"{self._side.describe(x)} for {len(chosen)} streams", "a row for each", "Match the rows."
            )
        codes = np.asarray(codes)
        bad = np.flatnonzero(codes < -1)
        if len(bad):
            row = int(bad[0])
            stamp = stamps if isinstance(stamps, int) else int(stamps[row])
            refuse(int(codes[row]), int(chosen[row]), stamp, self._streams)
        if self._on_result is None:
            numbers = chosen.tolist()
            return [Ticket(self._native, None if c < 0 else c, s) for c, s in zip(codes.tolist(), numbers, strict=True)]
        rows = np.flatnonzero(codes).tolist()
        return {row: "full" if code < 0 else PUTS[code] for row, code in zip(rows, codes[rows].tolist(), strict=True)}

    def share(self, name: str, clients: int = 64, places: int = 1024) -> Door:
        """Opens a door for other processes of this machine, until it stops: `StreamBatcher.connect(name)` there puts samples as
        here. They need no torch, and may be killed at any time.

        name: 1 to 200 letters, digits, '_', '-' or '.'. clients: processes at once. places: answers that each may have
            outstanding, 1 to 2^20, made a power of two.

        Raises UnsupportedProblem where it does not run, FormatError for a name that is taken and for on_result.
        """
        self._here("share")
        if not self._running:
            raise UnsupportedProblem("share", "a batcher that does not run", "one between start and stop", "Start it.")
        self._door = Door(self._native, name, clients, places, self._side)
        return self._door

    @staticmethod
    def connect(name: str) -> BatcherClient:
        """A client of a batcher that another process shares under this name. Raises FormatError where there is none, or no place
        for one more client."""
        return BatcherClient(name)

    def reset(self, streams: int | Iterable[int]) -> list[int]:
        """These streams start anew with the next sample that is put, while the batcher runs; nothing waits.

        Gives the numbers of those that had a sample waiting: it is answered "replaced", or with on_result not at all. Raises
        ShapeError for a stream that there is not, and UnsupportedProblem where it does not run; then none has changed.
        """
        return self._members.reset(streams, self._native.reset, self._still_running)

    def remove(self, streams: int | Iterable[int]) -> list[int]:
        """These streams are gone until `add`: no batch waits for them, and puts of them raise ShapeError. Gives and raises as
        `reset`."""
        return self._members.remove(streams, self._native.remove, self._still_running)

    def add(self, streams: int | Iterable[int]) -> None:
        """Streams that were removed are there again, and start anew. Raises as `reset`, and ShapeError for one that is there."""
        self._members.add(streams, self._native.add, self._still_running)

    @property
    def streams(self) -> list[int]:
        """Numbers of the streams that are there."""
        return self._members.present

    def _still_running(self, op: str) -> None:
        if not self.running:
            raise UnsupportedProblem(
                op, "a batcher that does not run", "one between start and stop", "Reset the model itself."
            )

    def stop(self) -> None:
        """Refuses puts from now on, answers all that waits, and ends the worker; tickets can be taken afterwards.

        Raises what on_result raised first.
        """
        self._here("stop")
        if threading.current_thread() is self._caller:
            raise UnsupportedProblem("stop", "a call from on_result", "a call from another thread", "Set a flag there.")
        if self._running:
            self._native.stop()
            while not self._native.wait_stopped(SLICE_NS):  # between two of them Python sees signals
                pass
            if self._caller is not None:
                self._caller.join()
            if self._door is not None:
                self._door.close()
            self._running = False
            threads.forget(self)
        if self._raised:
            raise self._raised[0]

    def stats(self, check: bool = True) -> BatcherStats:
        """What was counted so far. Raises what on_result raised first; check=False: not."""
        if check and self._raised:
            raise self._raised[0]
        return BatcherStats.of(self._native.stats())

    @property
    def running(self) -> bool:
        """Whether its worker runs."""
        return self._running and os.getpid() == self._pid

    def __enter__(self) -> StreamBatcher:
        return self.start()

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        try:
            self.stop()
        except BaseException:
            if kind is None:
                raise

    def __repr__(self) -> str:
        return f"StreamBatcher({self._streams} streams, {'running' if self.running else 'not running'})"

    def _end(self, timeout: float) -> None:
        self._native.stop()
        self._native.wait_stopped(int(timeout * 1e9))
        if self._door is not None:
            self._door.close()

    def _call(self) -> None:
        assert self._on_result is not None
        while (got := self._native.next(SLICE_NS)) is not False:
            if got is None:
                continue
            try:
                self._on_result(*got[:3])
            except BaseException as error:  # raised by stop and stats; the next results are not lost
                self._raised.append(error)
                del self._raised[1:]
            finally:
                self._native.give_back()

    def _here(self, op: str) -> None:
        if os.getpid() != self._pid:
            raise UnsupportedProblem(
                op, "a batcher of the process that forked this one", "one of this process", "Make it after the fork."
            )
