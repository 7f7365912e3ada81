"""Frames against a codec in plain NumPy and float64, and every kind of bad frame."""

from __future__ import annotations

import hashlib
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rtaccel import _native as native
from rtaccel.core.errors import FormatError, ShapeError
from rtaccel.serve.frames import FrameRefused, Reader, Writer

MODEL = hashlib.sha256(b"a model").digest()
LEVELS = {"int8": 255, "int4": 15}


def sent(arrays: list[NDArray[Any]], wire: str, key: bytes | None = None, **said: Any) -> bytes:
    writer = Writer(arrays, MODEL, wire, key)
    frame = bytearray(writer.bytes)
    assert writer.write(frame, **{"sequence": 1, **said}) == writer.bytes
    return bytes(frame)


def test_siphash_of_its_paper() -> None:
    assert native.siphash(bytes(range(15)), bytes(range(16))) == 0xA129CA6149BE45E5
    assert native.siphash(b"", bytes(range(16))) == 0x726FDB47DD0E0E31


def test_the_layout_is_what_the_reference_says() -> None:
    x, n = np.arange(6, dtype=np.float32).reshape(2, 3), np.array([[7]], np.int64)
    frame = sent([x, n], "float32", sequence=5, stamp_ns=-3, session=9)
    head = struct.unpack_from("<4sHBBQQq16sIHHQ", frame)
    assert head[:7] == (b"RTAF", 1, 1, 2, 9, 5, -3)
    assert head[7] == MODEL[:16]
    assert head[8:11] == (len(frame), 0, 0)
    assert struct.unpack_from("<BBHI7II", frame, 64) == (0, 2, 0, 24, 2, 3, 0, 0, 0, 0, 0, 0)
    assert struct.unpack_from("<BBHI7II", frame, 104) == (2, 2, 0, 8, 1, 1, 0, 0, 0, 0, 0, 0)
    assert frame[144:168] == x.tobytes()
    assert frame[168:] == n.tobytes()
    assert head[11] == native.siphash(frame[:56] + frame[64:], bytes(16))


@given(
    st.sampled_from(["int8", "int4"]),
    st.integers(1, 3),
    st.integers(1, 33),
    st.floats(-37, 37),
    st.integers(0, 2**32 - 1),
)
@settings(deadline=None)
def test_codes_are_off_by_half_a_step(wire: str, rows: int, width: int, size: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = (rng.normal(size=(rows, width)) * 10.0**size).astype(np.float32)
    x += np.float32(rng.normal() * 10.0**size)
    y = np.full_like(x, 9)
    Reader([y], MODEL, wire).read(sent([x], wire))
    low, high = x.min(1, keepdims=True).astype(np.float64), x.max(1, keepdims=True).astype(np.float64)
    step = (high - low) / LEVELS[wire]
    # Half a step; the step is rounded to float32, which grows over all levels; the result is rounded.
    bound = step * 0.5 + (high - low) * 2.0**-23 + np.abs(x) * 2.0**-23 + LEVELS[wire] * 2.0**-149
    assert (np.abs(y.astype(np.float64) - x) <= bound).all()


@pytest.mark.parametrize("wire", ["int8", "int4"])
def test_rows_apart(wire: str) -> None:
    x = np.array([[1, np.nan, 2], [0, 1, 0.5], [np.inf, 0, 0], [3, 3, 3], [-3e38, 3e38, 0]], np.float32)
    y = np.zeros_like(x)
    Reader([y], MODEL, wire).read(sent([x], wire))
    assert np.isnan(y[[0, 2]]).all()
    assert (y[3] == 3).all()
    assert np.isfinite(y[4]).all()
    assert abs(y[1, 1] - 1) < 1e-6


def test_what_is_no_float32_travels_as_it_is() -> None:
    q, s, i = np.array([[-128, 127]], np.int8), np.array([[1e-42, np.nan]], np.float32), np.array([[2**62]], np.int64)
    outs = [np.zeros_like(q), np.zeros_like(s), np.zeros_like(i)]
    Reader(outs, MODEL).read(sent([q, s, i], "float32"))
    assert all(a.tobytes() == b.tobytes() for a, b in zip((q, s, i), outs))


def reason(reader: Reader, frame: Any, **said: Any) -> str:
    before, guard = [a.copy() for a in reader.arrays], (reader.guard.session, reader.guard.newest)
    with pytest.raises(FrameRefused) as caught:
        reader.read(frame, **said)
    assert all(a.tobytes() == b.tobytes() for a, b in zip(before, reader.arrays)), "a refused frame was read"
    assert guard == (reader.guard.session, reader.guard.newest)
    assert isinstance(caught.value, FormatError)
    return caught.value.reason


def test_every_refusal() -> None:
    x = np.ones((2, 3), np.float32)
    reader = Reader([np.zeros((2, 3), np.float32)], MODEL)
    good = sent([x], "float32", sequence=7, session=100)
    assert reason(reader, good[:63]) == "truncated"
    assert reason(reader, b"") == "truncated"
    assert reason(reader, good[:-1]) == "truncated"
    assert reason(reader, good, size=len(good) + 1) == "truncated"
    assert reason(reader, good + b"\0") == "oversize"
    assert reason(reader, b"X" + good[1:]) == "magic"
    assert reason(reader, good[:4] + b"\2" + good[5:]) == "version"
    assert reason(reader, good[:-1] + b"\1") == "digest"
    assert reason(reader, good, kind="answer") == "kind"
    assert reason(reader, good, session=99) == "session"
    assert reason(reader, sent([x], "int8")) == "layout"
    assert reason(reader, sent([x.reshape(3, 2)], "float32")) == "layout"
    assert reason(reader, sent([x[:, :1].copy(), x[:, :1].copy()], "float32")) in ("layout", "oversize")
    assert reason(reader, sent([x], "float32", key=bytes(range(16)))) == "digest"
    assert reason(Reader([x.copy()], hashlib.sha256(b"another").digest()), good) == "model"
    assert reader.read(good).sequence == 7
    assert reason(reader, good) == "replayed"
    assert reason(reader, sent([x], "float32", sequence=6, session=100)) == "reordered"
    assert reason(reader, sent([x], "float32", sequence=9, session=99)) == "session"
    assert reader.read(sent([x], "float32", sequence=1, session=101)).sequence == 1  # the sender started anew
    assert reason(reader, good) == "session"


@given(st.data())
@settings(deadline=None, max_examples=300)
def test_no_changed_frame_is_taken(data: st.DataObject) -> None:
    """Bits flipped, bytes cut off, put in, or written over: refused, and never read."""
    wire = data.draw(st.sampled_from(["float32", "int8", "int4"]))
    frame = bytearray(sent([np.arange(10, dtype=np.float32).reshape(2, 5)], wire, key=bytes(range(16))))
    original = bytes(frame)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(frame) - 1)) if frame else 0
        kind = data.draw(st.sampled_from(["flip", "cut", "insert", "write"]))
        if kind == "flip" and frame:
            frame[at] ^= 1 << data.draw(st.integers(0, 7))
        elif kind == "cut":
            del frame[at : at + data.draw(st.integers(1, 20))]
        elif kind == "insert":
            frame[at:at] = data.draw(st.binary(min_size=1, max_size=20))
        else:
            given_ = data.draw(st.binary(min_size=1, max_size=8))
            frame[at : at + len(given_)] = given_
    if bytes(frame) == original:
        return
    reason(Reader([np.zeros((2, 5), np.float32)], MODEL, wire, bytes(range(16))), bytes(frame))


@given(st.binary(max_size=200), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=300)
def test_a_forger_with_the_key_gets_no_further_than_the_layout(junk: bytes, seed: int) -> None:
    """Descriptors of any content under a right digest: no read outside the frame, whatever they say."""
    key = bytes(16)
    rng = np.random.default_rng(seed)
    body = bytearray(struct.pack("<BBHI7II", *rng.integers(0, 6, 2), 0, *rng.integers(0, 60, 9)) + junk)
    size = 64 + len(body)
    head = bytearray(
        struct.pack("<4sHBBQQq16sIHHQ", b"RTAF", 1, 1, int(rng.integers(0, 10)), 1, 1, 0, MODEL[:16], size, 0, 0, 0)
    )
    head[56:] = native.siphash(bytes(head[:56] + body), key).to_bytes(8, "little")
    frame = bytes(head + body)
    code, *_, tensors = native.frame_parse(frame, key)
    assert code in (0, -6)
    if code == 0:
        assert sum(-(-bytes_ // 8) * 8 + 40 for _, _, bytes_ in tensors) + 64 == size


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 6)), max_size=40))
@settings(deadline=None)
def test_a_guard_takes_only_what_is_newer(frames: list[tuple[int, int]]) -> None:
    x = np.zeros((1, 1), np.float32)
    reader, newest = Reader([np.zeros((1, 1), np.float32)], MODEL), (0, 0)
    for session, sequence in frames:
        frame = sent([x], "float32", session=session, sequence=sequence)
        if (session, sequence) > newest:
            reader.read(frame)
            newest = (session, sequence)
        else:
            found = reason(reader, frame)
            same = session == newest[0]
            assert found == ("session" if not same else "replayed" if sequence == newest[1] else "reordered")


def test_bad_arguments() -> None:
    x = np.zeros((2, 2), np.float32)
    for arrays in ([], [x] * 9, [x[:, :1]], [np.zeros(0, np.float32)], [np.float32(3)], [x.astype(np.float64)], ["x"]):
        with pytest.raises((ShapeError, FormatError)):
            Writer(arrays, MODEL)
    for said in ({"wire": "int2"}, {"key": b"short"}, {"model": b"short"}):
        with pytest.raises(FormatError):
            Writer([x], **{"model": MODEL, **said})
    with pytest.raises(ShapeError):
        Writer([x], MODEL).write(bytearray(10), 1)
