"""Deadlines, batches and sequences, in this process."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rtaccel as rt
from rtaccel.core.errors import FormatError, ShapeError
from rtaccel.serve.v2.refusals import Full, TooLate, UnknownSequence
from rtaccel.serve.v2.request import Parameters, Request
from rtaccel.serve.v2.served import ServedModel
from tests.serve.v2.protocol_server import STREAMS

SETTINGS = settings(max_examples=25, deadline=None)


def served(file: Path, max_batch: int = 64, idle_s: float = 60.0) -> ServedModel:
    model = ServedModel(file.stem, str(file), rt.load(file), max_batch, idle_s)
    model._mean_ns = 50_000.0  # made in the loop's own thread, and long enough to share
    return model


def data(*shape: int) -> np.ndarray:
    return np.random.default_rng().standard_normal(shape, np.float32)


def ask(x: Any, sequence: Any = None, start: bool = False, end: bool = False, timeout_us: int | None = None) -> Request:
    return Request((x,), (0,), Parameters(sequence, start, end, timeout_us))


async def together(model: ServedModel, requests: list[Request]) -> list[Any]:
    now = time.monotonic_ns()
    return await asyncio.gather(*(model.infer(r, now) for r in requests), return_exceptions=True)


@SETTINGS
@given(rows=st.lists(st.integers(1, 9), min_size=1, max_size=12), max_batch=st.integers(1, 16), thread=st.booleans())
def test_requests_share_calls_and_get_their_own_rows(
    files: tuple[Path, ...], rows: list[int], max_batch: int, thread: bool
) -> None:
    model, alone = served(files[0], max_batch), rt.load(files[0])
    if thread:
        model._mean_ns = float("inf")
    xs = [data(n, 6) for n in rows]
    if not thread:
        model._mean_ns = 50_000.0  # long enough to share
    answers = asyncio.run(together(model, [ask(x) for x in xs]))
    for x, (y,) in zip(xs, answers):
        np.testing.assert_allclose(y, alone(x), rtol=0, atol=1e-5)  # kernels for other batches sum in another order
    assert model.counts.batch.total == sum(rows)
    assert model.counts.ok == len(rows)
    if max_batch >= sum(rows) and not thread:
        assert model.counts.batch.n == 1
    assert model.counts.batch.n >= -(-sum(rows) // max(max_batch, *rows))
    model.close()


@SETTINGS
@given(st.data())
def test_sequences_are_streams_of_their_own(files: tuple[Path, ...], data_: st.DataObject) -> None:
    """Any interleaving of sequences, sent in bursts, equals each stream stepped alone; what is not a sequence is refused."""
    model, alone = served(files[1], data_.draw(st.integers(1, 5))), rt.load(files[1])
    tracks: dict[int, int] = {}  # sequence -> its stream in `alone`
    going_on: set[int] = set()

    async def run() -> None:
        for _ in range(data_.draw(st.integers(1, 6))):
            burst, expected = [], []
            for sequence in data_.draw(st.lists(st.integers(1, 6), min_size=1, max_size=8)):
                start, end = data_.draw(st.booleans()), data_.draw(st.integers(0, 3)) == 0
                x = data(1, 3)
                full = sequence not in tracks and len(tracks) == STREAMS
                if start and full and set(tracks) - going_on:
                    continue  # whether the stream of a sequence that ends in this burst is free by then is a matter of time
                burst.append(ask(x, sequence, start, end))
                if not start and sequence not in going_on:
                    expected.append(UnknownSequence)
                elif full:
                    expected.append(Full)
                else:
                    stream = tracks.setdefault(sequence, min(set(range(STREAMS)) - set(tracks.values()), default=-1))
                    if start:
                        alone.reset(stream)
                    (going_on.discard if end else going_on.add)(sequence)
                    expected.append(alone.step(x, streams=[stream]))
            for want, got in zip(expected, await together(model, burst)):
                if isinstance(want, type):
                    assert isinstance(got, want), got
                else:  # kernels for other batches sum in another order
                    np.testing.assert_allclose(got[0], want, rtol=0, atol=1e-6)
            for sequence in set(tracks) - going_on:
                del tracks[sequence]
            assert len(model.sequences) == len(tracks)

    asyncio.run(run())


def test_what_is_too_late_is_not_begun(files: tuple[Path, ...]) -> None:
    model, alone = served(files[1]), rt.load(files[1])
    x = data(1, 3)

    async def run() -> None:
        await model.infer(ask(x, 1, start=True), time.monotonic_ns())
        late = time.monotonic_ns() - 10_000_000
        with pytest.raises(TooLate, match="late at best"):
            await model.infer(ask(x, 1, timeout_us=5000), late)
        (y,) = await model.infer(ask(x, 1, timeout_us=60_000_000), time.monotonic_ns())
        alone.step(x, streams=[0])
        np.testing.assert_array_equal(y, alone.step(x, streams=[0]))  # it had not moved
        model._least_ns = 10**12  # a call never took less
        with pytest.raises(TooLate):
            await model.infer(ask(x, 1, timeout_us=60_000_000), time.monotonic_ns())

    asyncio.run(run())
    assert (model.counts.ok, model.counts.too_late, model.counts.batch.n) == (2, 2, 2)


def test_a_start_that_was_too_late_starts_nothing(files: tuple[Path, ...]) -> None:
    model = served(files[1])
    requests = [ask(data(1, 3), 1, start=True, timeout_us=1), ask(data(1, 3), 1), ask(data(1, 3), 1, end=True)]

    async def run() -> list[Any]:
        old = time.monotonic_ns() - 10**9
        return await asyncio.gather(*(model.infer(r, old) for r in requests), return_exceptions=True)

    assert [type(a) for a in asyncio.run(run())] == [TooLate, UnknownSequence, UnknownSequence]
    assert len(model.sequences) == 0


def test_an_end_that_was_too_late_can_be_sent_again(files: tuple[Path, ...]) -> None:
    model = served(files[1])

    async def run() -> None:
        await model.infer(ask(data(1, 3), 1, start=True), time.monotonic_ns())
        with pytest.raises(TooLate):
            await model.infer(ask(data(1, 3), 1, end=True, timeout_us=1), time.monotonic_ns() - 10**9)
        await model.infer(ask(data(1, 3), 1, end=True), time.monotonic_ns())

    asyncio.run(run())
    assert len(model.sequences) == 0


def test_a_refused_number_is_one_requests_business(files: tuple[Path, ...]) -> None:
    model, alone = served(files[2]), rt.load(files[2])
    numbers = [3, 7, 0]

    async def run() -> list[Any]:
        first = await together(model, [ask(np.array([n], np.int64), n + 1, start=True) for n in (1, 2, 3)])
        assert not any(isinstance(a, Exception) for a in first)
        again = [ask(np.array([n], np.int64), i + 2, start=i == 1) for i, n in enumerate(numbers)]
        answers = await together(model, again)
        answers += await together(model, [ask(np.array([5], np.int64), i + 2) for i in range(3)])
        return answers

    answers = asyncio.run(run())
    assert isinstance(answers[1], FormatError)
    for stream, n in enumerate((1, 2, 3)):
        alone.step(np.array([n], np.int64), streams=[stream])
    for i in (0, 2):
        np.testing.assert_allclose(answers[i][0], alone.step(np.array([numbers[i]], np.int64), streams=[i]), atol=1e-6)
    for i in range(3):  # the refused start left its sequence as it was
        np.testing.assert_allclose(answers[3 + i][0], alone.step(np.array([5], np.int64), streams=[i]), atol=1e-6)


def test_an_idle_sequence_gives_way(files: tuple[Path, ...]) -> None:
    model = served(files[1], idle_s=0.0)

    async def run() -> None:
        for sequence in range(1, STREAMS + 3):
            await model.infer(ask(data(1, 3), sequence, start=True), time.monotonic_ns())
        with pytest.raises(UnknownSequence):
            await model.infer(ask(data(1, 3), 1), time.monotonic_ns())
        await model.infer(ask(data(1, 3), STREAMS + 2), time.monotonic_ns())

    asyncio.run(run())
    assert model.sequences.given_up == 2
    assert len(model.sequences) == STREAMS


def test_whoever_goes_away_is_not_computed(files: tuple[Path, ...]) -> None:
    model = served(files[0])

    async def run() -> None:
        tasks = [asyncio.ensure_future(model.infer(ask(data(1, 6)), time.monotonic_ns())) for _ in range(3)]
        await asyncio.sleep(0)
        tasks[1].cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(done[1], asyncio.CancelledError)
        assert all(isinstance(done[i], tuple) for i in (0, 2))

    asyncio.run(run())
    assert model.counts.batch.total == 2


def test_inputs_of_several_batches(files: tuple[Path, ...]) -> None:
    model = served(files[0])
    with pytest.raises(ShapeError):
        asyncio.run(model.infer(Request((data(1, 6), data(2, 6)), (0,), Parameters()), 0))


def test_a_fault_reaches_all_who_wait_and_the_model_goes_on(files: tuple[Path, ...], monkeypatch: Any) -> None:
    model = served(files[0])

    def broken(*_: Any) -> None:
        raise MemoryError("no")

    with monkeypatch.context() as patch:
        patch.setattr(model.model, "run_flat", broken)
        answers = asyncio.run(together(model, [ask(data(1, 6)) for _ in range(3)]))
    assert all(isinstance(a, MemoryError) for a in answers)
    assert asyncio.run(together(model, [ask(data(1, 6))]))[0][0].shape == (1, 3)
