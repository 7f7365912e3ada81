"""One model that is served: its requests wait here, and leave together as one native call."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from rtaccel.core.errors import RtaccelError, ShapeError
from rtaccel.deploy.loaded_model import LoadedModel
from rtaccel.serve.v2.job import Arrays, Job
from rtaccel.serve.v2.metrics import ModelCounts
from rtaccel.serve.v2.refusals import Full, TooLate
from rtaccel.serve.v2.request import Request, Sequence
from rtaccel.serve.v2.sequences import Sequences
from rtaccel.serve.v2.tensor_spec import TensorSpec

LONG_NS = 500_000
"""A call that is expected to take longer runs in another thread without the GIL: handing it over costs some 50 us."""
SHORT_NS = 20_000
"""A call that is expected to take less begins with its request, alone: to decode a request takes longer than sharing saves."""


class ServedModel:
    """A loaded model under a name. Its methods are called from the thread of the event loop.

    A call begins as soon as the model is free, with all that has come by then: requests of a model without a past are put one
    after the other, up to max_batch rows, where its batch is open; of a stream every sequence makes one step. A
    request whose deadline is over, or would be even if the call were the shortest that there was, is not begun.
    """

    def __init__(self, name: str, path: str, model: LoadedModel, max_batch: int, idle_s: float) -> None:
        self.name, self.path, self.model = name, path, model
        streams = model.streams
        one = 1 if streams else None
        self.inputs = tuple(TensorSpec.of(*edge) for edge in model.inputs)
        self.outputs = tuple(TensorSpec.of(*edge) for edge in model.outputs)
        least, most = model.batch
        self._streams, self._least, self._most = (streams, 1, one) if streams else (0, least, most)
        edges = (*self.inputs, *self.outputs)
        self.open = all(port.shape and port.shape[0] == -1 for port in edges)
        self.limit(max_batch)
        fixed = self.open and all(-1 not in port.shape[1:] for port in self.outputs)
        self._row_shapes = [(port.shape[1:], port.dtype) for port in self.outputs] if fixed else None
        self.heads: dict[bytes, Any] = {}  # of REST: what a text came to that was decoded before
        self.answer_heads: dict[Any, bytes] = {}  # of REST: the text of answers of some shapes
        self.sequences = Sequences(name, streams, int(idle_s * 1e9)) if streams else None
        self.counts = ModelCounts()
        self._waiting: deque[Any] = deque()  # jobs; of a stream, sequences with a job
        self._busy = self._called = False
        self._mean_ns, self._least_ns = math.inf, 0
        self._thread: ThreadPoolExecutor | None = None
        self.index = {port.name: i for i, port in enumerate(self.inputs)}
        self.output_index = {port.name: i for i, port in enumerate(self.outputs)}
        model.prefault()

    async def infer(self, request: Request, arrived_ns: int) -> Arrays:
        """The outputs of a request, in the order of the model. Raises a typed error, and the model is as before."""
        loop = asyncio.get_running_loop()
        job = Job(request, self._rows(request), arrived_ns, loop.create_future())
        if self.sequences is None:
            self._waiting.append(job)
        else:
            try:
                track = job.track = self.sequences.admit(request.parameters, job, time.monotonic_ns())
            except Full:
                self.counts.full += 1
                raise
            if len(track.waiting) == 1:
                self._waiting.append(track)
        if self._mean_ns < SHORT_NS and not self._busy and len(self._waiting) == 1:
            self._turn(loop)
        else:
            self._call_soon(loop)
        return await job.future

    def limit(self, rows: int) -> None:
        """From now on so many rows share a call at most."""
        self.batches = rows > 1 and (self._streams > 1 or (self.open and self._most != self._least))
        self.max_batch = rows if self._most is None or self._streams else min(rows, self._most)

    def samples(self, inputs: Arrays) -> int | None:
        """Of inputs; None where a model has no dimension for them."""
        return inputs[0].shape[0] if self.open and inputs else None

    def adopt(self, sequence: Sequence, state: bytes) -> None:
        """Goes on with a sequence, from what `give_up` gave elsewhere. Raises Full, and FormatError for other bytes."""
        assert self.sequences is not None
        track = self.sequences.open(sequence, time.monotonic_ns())
        try:
            self.model.load_stream(track.stream, state)
        except RtaccelError:
            self.sequences.close(track)
            raise
        track.live = True

    def give_up(self, sequence: Sequence) -> bytes | None:
        """What a sequence remembers, which ends here; None where it is not here, or waits for an answer."""
        assert self.sequences is not None
        track = self.sequences.find(sequence)
        if track is None or track.waiting:
            return None
        state = self.model.save_stream(track.stream)
        self.sequences.close(track)
        return state

    @property
    def pending(self) -> int:
        return len(self._waiting) + self._busy

    async def settle(self) -> None:
        """Waits until nothing waits and nothing runs."""
        while self.pending:
            await asyncio.sleep(0.001)

    def close(self) -> None:
        if self._thread is not None:
            self._thread.shutdown(wait=True)

    # -- batches

    def _rows(self, request: Request) -> int:
        """Samples of a request, the same in all of its inputs. Raises ShapeError."""
        if not self.open:
            return 1
        rows = {array.shape[0] for array in request.inputs}
        (first, *others) = rows
        if others or first < self._least or (self._most is not None and first > self._most):
            got = f"a batch of {' and '.join(map(str, sorted(rows)))}"
            most = "any number of" if self._most is None else str(self._most)
            expected = f"{self._least} to {most} samples"
            if self.sequences is not None:
                expected = "1, a step of one sequence"
            raise ShapeError("infer", got, expected, "Send as many as the model was saved for.")
        return first

    def _call_soon(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._called and not self._busy and self._waiting:
            self._called = True
            loop.call_soon(self._called_back, loop)

    def _called_back(self, loop: asyncio.AbstractEventLoop) -> None:
        self._called = False
        self._turn(loop)

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._busy:
            return
        batch = self._choose()
        if not batch:
            self._call_soon(loop)
            return
        began = time.monotonic_ns()
        for job in batch:
            self.counts.queue.add(began - job.arrived_ns)
        if self._mean_ns < LONG_NS:
            self._finish(loop, batch, self._attempt(batch, False))
            return
        self._busy = True
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, f"rtaccel-{self.name}")
        done = loop.run_in_executor(self._thread, self._attempt, batch, True)
        done.add_done_callback(lambda future: self._finish(loop, batch, future.result()))

    def _choose(self) -> list[Job]:
        """The jobs of the next call; those that are not to be begun are told so."""
        batch: list[Job] = []
        rows, key, now = 0, None, time.monotonic_ns()
        most = self.max_batch if self.batches else 1
        while self._waiting:
            head = self._waiting[0]
            job: Job = head if self.sequences is None else head.waiting[0]
            refused = self._not_begun(job, now)
            if refused is None and batch:
                found = tuple(array.shape[1:] for array in job.request.inputs)
                if rows + job.rows > most or found != key:
                    break
            self._waiting.popleft()
            if refused is not None:
                self._answer(job, refused)
                continue
            if not batch:
                key = tuple(array.shape[1:] for array in job.request.inputs)
            batch.append(job)
            rows += job.rows
            if rows >= most:
                break
        return batch

    def _not_begun(self, job: Job, now: int) -> BaseException | None:
        if job.future.done():  # whoever asked has gone
            return asyncio.CancelledError()
        if job.deadline_ns is not None and now + self._least_ns > job.deadline_ns:
            self.counts.too_late += 1
            over = (now + self._least_ns - job.deadline_ns) / 1e3
            return TooLate(
                "infer", f"a request of {self.name!r} whose answer would be {over:,.0f} us late at best",
                f"an answer within {(job.deadline_ns - job.arrived_ns) / 1e3:,.0f} us", "Nothing was computed.",
            )  # fmt: skip
        track = job.track
        if track is not None and not job.request.parameters.start and not track.live:
            assert self.sequences is not None
            return self.sequences.unknown(track.id)
        return None

    def _attempt(self, batch: list[Job], release: bool) -> list[Arrays | Exception]:
        """Results by job. One whose numbers the model refuses is told alone, the others are computed."""
        try:
            return list(self._compute(batch, release))
        except RtaccelError as error:
            if len(batch) == 1:
                return [error]
        except Exception as error:
            return [error] * len(batch)
        made: list[Arrays | Exception] = []
        for job in batch:
            made += self._attempt([job], release)
        return made

    def _compute(self, batch: list[Job], release: bool) -> list[Arrays]:
        count = len(self.inputs)
        given = (
            batch[0].request.inputs
            if len(batch) == 1
            else tuple(np.concatenate([job.request.inputs[i] for job in batch]) for i in range(count))
        )
        rows = batch[0].rows if len(batch) == 1 else sum(job.rows for job in batch)
        outs = self._fresh(given, rows)
        began = time.monotonic_ns()
        if self.sequences is None:
            self.model.run_flat(given, outs, None, release)
        else:
            self._step(batch, given, outs, release)
        took = time.monotonic_ns() - began
        self.counts.took.add(took)
        self.counts.batch.add(rows)
        self._mean_ns = took if math.isinf(self._mean_ns) else 0.875 * self._mean_ns + 0.125 * took
        self._least_ns = took if not self._least_ns else min(took, self._least_ns)
        if len(batch) == 1:
            return [outs]
        made, first = [], 0
        for job in batch:
            made.append(tuple(out[first : first + job.rows] for out in outs))
            first += job.rows
        return made

    def _fresh(self, given: Arrays, rows: int) -> Arrays:
        if self._row_shapes is None:
            return self.model._fresh(given, rows if self.sequences is not None else None)
        return tuple(np.empty((rows, *shape), dtype) for shape, dtype in self._row_shapes)

    def _step(self, batch: list[Job], given: Arrays, outs: Arrays, release: bool) -> None:
        streams, before = [], []
        for job in batch:
            assert job.track is not None
            stream = job.track.stream
            streams.append(stream)
            if job.request.parameters.start:
                if job.track.live:
                    before.append((stream, self.model.save_stream(stream)))
                self.model.reset(stream)
        try:
            self.model.run_flat(given, outs, streams, release)
        except RtaccelError:
            for stream, past in before:
                self.model.load_stream(stream, past)
            raise

    def _finish(self, loop: asyncio.AbstractEventLoop, batch: list[Job], made: list[Arrays | Exception]) -> None:
        self._busy = False
        now = self.counts.began_ns = time.monotonic_ns()
        for job, result in zip(batch, made):
            if isinstance(result, BaseException):
                self.counts.failed += 1
            elif job.deadline_ns is not None and now > job.deadline_ns:
                self.counts.late += 1
            else:
                self.counts.ok += 1
            self._answer(job, result)
        self._call_soon(loop)

    def _answer(self, job: Job, result: Arrays | BaseException) -> None:
        if job.track is not None:
            assert self.sequences is not None
            stepped = not isinstance(result, BaseException)
            job.track.live = job.track.live or stepped
            self.sequences.done(job.track, stepped and job.request.parameters.end)
            if job.track.waiting:
                self._waiting.append(job.track)
        if job.future.done():
            return
        if isinstance(result, BaseException):
            job.future.set_exception(result)
        else:
            job.future.set_result(result)
