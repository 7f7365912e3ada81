"""The slot in one process: what it gives, what it takes and what it refuses."""

from __future__ import annotations

import array
import ctypes
import gc
import pickle
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import rtaccel as rt
from rtaccel import _native as native
from rtaccel.core.errors import FormatError, RtaccelError, ShapeError, UnsupportedProblem
from rtaccel.realtime import tensor_of
from rtaccel.realtime.latest import DTYPES

BOTH = pytest.mark.parametrize("readers", ["one", "many"])


@BOTH
def test_none_new_old(readers: str) -> None:
    slot = rt.Latest((2, 3), readers=readers)
    got = slot.get()
    assert (got.status, got.value, got.seq, got.age_us) == ("none", None, 0, None)
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    before = time.monotonic_ns()
    assert slot.put(x) == 1
    got = slot.get()
    assert (got.status, got.seq, got.origin) == ("new", 1, "put")
    assert before <= got.stamp_ns <= time.monotonic_ns()
    assert got.age_us >= 0
    np.testing.assert_array_equal(got.value, x)
    assert slot.get().status == "old"
    x[:] = 7
    assert slot.get().value[0, 0] == 0  # it was copied
    assert [slot.put(x) for _ in range(20)] == list(range(2, 22))
    assert (slot.get().seq, slot.get().status) == (21, "old")


@BOTH
@settings(max_examples=60, deadline=None)
@given(steps=st.lists(st.sampled_from(["put", "get"]), max_size=60))
def test_it_is_a_box_with_the_newest_value(readers: str, steps: list[str]) -> None:
    slot, value, seen = rt.Latest((), "int64", readers=readers), 0, 0
    for step in steps:
        if step == "put":
            value += 1
            assert slot.put(np.array(value * 11)) == value
        else:
            got = slot.get()
            assert got.seq == value
            assert got.status == ("none" if value == 0 else "new" if value > seen else "old")
            assert value == 0 or got.value == value * 11
            seen = value


def test_a_view_stays_until_the_next_get() -> None:
    slot = rt.Latest((4,))
    slot.put(np.ones(4, np.float32))
    view = slot.get().value
    for n in range(5):
        slot.put(np.full(4, n, np.float32))
    assert view.tolist() == [1] * 4
    with pytest.raises(ValueError, match="read-only"):
        view[0] = 3
    assert slot.get().value.tolist() == [4] * 4


@pytest.mark.parametrize("dtype", [d for d in DTYPES if d != "bfloat16"])
@BOTH
def test_every_dtype_in_and_out(dtype: str, readers: str) -> None:
    slot = rt.Latest((3, 5), dtype, readers=readers)
    x = (np.random.default_rng(1).random((3, 5)) * 2).astype(dtype)
    slot.put(x)
    got = slot.get().value
    assert got.dtype == x.dtype
    np.testing.assert_array_equal(got, x)
    y = torch.from_numpy(x)
    slot.put(y)
    assert torch.equal(tensor_of(slot.get()), y)


def test_bfloat16_is_torch_s() -> None:
    slot = rt.Latest((7,), torch.bfloat16)
    x = torch.randn(7).bfloat16()
    slot.put(x)
    slot.put(x)
    assert torch.equal(tensor_of(slot.get()), x)


class Exporter:
    """Something with DLPack and nothing else."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor

    def __dlpack__(self, **kwargs: Any) -> Any:
        return self.tensor.__dlpack__(**kwargs)

    def __dlpack_device__(self) -> Any:
        return self.tensor.__dlpack_device__()


@pytest.mark.parametrize(
    "make",
    [
        lambda x: x,
        lambda x: torch.from_numpy(x),
        lambda x: x.tolist(),
        lambda x: tuple(x.tolist()),
        lambda x: array.array("f", x),
        lambda x: (ctypes.c_float * 4)(*x),
        lambda x: memoryview(x),
        lambda x: Exporter(torch.from_numpy(x)),
        lambda x: np.repeat(x, 2)[::2],
        lambda x: torch.from_numpy(np.repeat(x, 3))[::3],
        lambda x: (-torch.from_numpy(x))._neg_view(),
        lambda x: torch.from_numpy(x).requires_grad_(),
    ],
)
def test_what_a_put_takes(make: Any) -> None:
    x = np.random.default_rng(2).standard_normal(4).astype(np.float32)
    slot = rt.Latest((4,))
    for n in range(3):  # the first tensor goes the long way, later ones the short one
        assert slot.put(make(x)) == n + 1
        np.testing.assert_array_equal(slot.get().value, x)


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros(4),
        np.zeros(3, np.float32),
        np.zeros((4, 1), np.float32),
        torch.zeros(4, dtype=torch.float64),
        torch.zeros(5),
        "text",
        object(),
        None,
        [1, 2, 3],
        [1, "a", 2, 3],
        np.zeros(4, np.int32),
        np.array(1.0, np.float32),
        b"0123456789abcdef",
        torch.zeros(4, device="meta"),
        torch.zeros(4).to_sparse(),
    ],
)
def test_another_shape_or_dtype_is_refused_and_changes_nothing(bad: Any) -> None:
    slot = rt.Latest((4,))
    slot.put(np.ones(4, np.float32))
    with pytest.raises(ShapeError) as told:
        slot.put(bad)
    assert "float32[4]" in str(told.value)
    got = slot.get()
    assert (got.seq, got.value.tolist()) == (1, [1.0] * 4)


def test_stamps() -> None:
    slot = rt.Latest((1,))
    now = time.monotonic_ns()
    assert slot.put([1.0], stamp_ns=now - 5_000_000) == 1
    assert 5_000 <= slot.get().age_us < 60e6
    assert slot.put([2.0], stamp_ns=now - 6_000_000) == 0  # it was overtaken
    assert slot.dropped == 1
    assert slot.put([3.0], stamp_ns=now - 5_000_000) == 2  # the same time is no step back
    for bad in (time.monotonic_ns() + 10**9, 0, -5, 1.5, "now", True, 2**63, 2**70):
        with pytest.raises(FormatError):
            slot.put([4.0], stamp_ns=bad)  # type: ignore[arg-type]
    got = slot.get()
    assert (got.seq, got.value.tolist(), got.stamp_ns) == (2, [3.0], now - 5_000_000)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_nan_policy(dtype: str) -> None:
    kind = getattr(torch, dtype)
    bad = torch.tensor([1.0, float("nan"), float("inf")]).to(kind)
    fine = torch.tensor([1.0, -float("inf"), float("inf")]).to(kind)
    slot = rt.Latest((3,), dtype)
    assert slot.put(bad) == 1
    strict = rt.Latest((3,), dtype, nan="refuse")
    assert strict.put(fine) == 1
    for _ in range(2):
        with pytest.raises(FormatError, match="NaN"):
            strict.put(bad)
    assert (strict.get().seq, strict.nan, slot.nan) == (1, "refuse", "pass")


@pytest.mark.parametrize(
    "make",
    [
        lambda: rt.Latest((0,)),
        lambda: rt.Latest((-1,)),
        lambda: rt.Latest((1,) * 9),
        lambda: rt.Latest("ab"),
        lambda: rt.Latest((2.0,)),
        lambda: rt.Latest((2**30, 2**30)),
        lambda: rt.Latest((3,), "complex64"),
        lambda: rt.Latest((3,), None),
        lambda: rt.Latest((3,), readers="two"),
        lambda: rt.Latest((3,), nan="drop"),
        lambda: rt.Latest((3,), name="a/b"),
        lambda: rt.Latest((3,), name=""),
        lambda: rt.Latest((3,), name=3),
        lambda: rt.Latest.open("no-such-slot-anywhere"),
        lambda: rt.Latest((True,)),
        lambda: rt.Latest((3,)).unlink(),
        lambda: pickle.dumps(rt.Latest((3,))),
    ],
)
def test_what_there_is_not(make: Any) -> None:
    with pytest.raises(RtaccelError):
        make()


def test_one_writer_and_one_reader(name: str) -> None:
    first, second = rt.Latest((2,), name=name), rt.Latest.open(name)
    first.put([1, 2])
    with pytest.raises(UnsupportedProblem, match="writer"):
        second.put([3, 4])
    assert second.get().value.tolist() == [1, 2]
    with pytest.raises(UnsupportedProblem, match="reader"):
        first.get()
    first.close()
    assert second.put([3, 4]) == 2  # the number goes on
    with pytest.raises(UnsupportedProblem, match="closed"):
        first.put([1, 2])
    with pytest.raises(UnsupportedProblem, match="closed"):
        first.get()
    second.close()
    third = rt.Latest.open(name)
    assert (third.get().seq, third.put([5, 6])) == (2, 3)


def test_many_readers(name: str) -> None:
    slot = rt.Latest((2,), name=name, readers="many")
    others = [rt.Latest.open(name) for _ in range(3)]
    slot.put([1, 2])
    assert [o.get().status for o in others] == ["new"] * 3
    kept = others[0].get().value
    slot.put([3, 4])
    others[0].get()
    assert kept.tolist() == [1, 2]  # an array of its own
    assert [o.readers for o in others] == ["many"] * 3
    with pytest.raises(UnsupportedProblem):
        others[0].put([0, 0])


def test_a_name_keeps_its_kind(name: str) -> None:
    slot = rt.Latest((2, 3), "int16", name)
    again = rt.Latest.open(name)
    assert (again.shape, again.dtype, again.name) == ((2, 3), "int16", name)
    assert isinstance(again, rt.Latest)
    assert pickle.loads(pickle.dumps(slot)).shape == (2, 3)
    for other in (((3, 2), "int16", "one"), ((2, 3), "int32", "one"), ((2, 3), "int16", "many")):
        with pytest.raises(FormatError, match="another shape"):
            rt.Latest(other[0], other[1], name, readers=other[2])
    slot.unlink()
    with pytest.raises(FormatError):
        slot.unlink()
    with pytest.raises(FormatError):
        rt.Latest.open(name)


@pytest.mark.parametrize("damage", ["magic", "version", "shape", "short", "empty"])
def test_something_else_under_a_name(name: str, damage: str) -> None:
    path = f"/dev/shm/rta.{name}"
    rt.Latest((4,), name=name).close()
    with open(path, "r+b") as file:
        if damage in ("short", "empty"):
            file.truncate(0 if damage == "empty" else 600)
        else:
            file.seek({"magic": 0, "version": 8, "shape": 64}[damage])
            file.write(b"\xff" * 4)
    with pytest.raises(FormatError):
        rt.Latest.open(name)


def test_the_layout_is_that_of_the_header(name: str) -> None:
    slot = rt.Latest((3,), name=name)
    slot.put([1, 2, 3], stamp_ns=5)
    raw = Path(f"/dev/shm/rta.{name}").read_bytes()
    assert raw[:8] == b"RTALATST"
    words = np.frombuffer(raw, np.uint32, 16)
    assert (words[2], words[3], words[15]) == (1, 512, 1)
    total, payload, stride = np.frombuffer(raw, np.uint64, 3, offset=16)
    assert (total, payload, stride) == (len(raw), 12, 128)
    word = int(np.frombuffer(raw, np.uint32, 1, offset=256)[0])
    others = [b for b in range(3) if b != word & 3]
    at = 512 + others[word >> 31] * 128
    assert word & 4
    assert np.frombuffer(raw, np.int64, 2, offset=at).tolist() == [1, 5]
    assert np.frombuffer(raw, np.float32, 3, offset=at + 64).tolist() == [1, 2, 3]


def test_values_outlive_their_slot() -> None:
    slot = rt.Latest((1000,))
    slot.put(np.full(1000, 3, np.float32))
    got = slot.get()
    view, tensor = got.value, tensor_of(got)
    del slot, got
    gc.collect()
    assert view.sum() == 3000
    assert tensor.sum() == 3000


def test_a_closed_slot_is_freed_without_the_collector(name: str) -> None:
    gc.disable()
    try:
        slot = rt.Latest((4,), name=name)
        slot.put([1, 2, 3, 4])
        del slot
        assert rt.Latest.open(name).put([1, 2, 3, 4]) == 2
    finally:
        gc.enable()


def test_torch_is_not_imported() -> None:
    code = """
import sys, numpy as np, rtaccel as rt
slot = rt.Latest((3,)); slot.put(np.ones(3, np.float32)); slot.put([1, 2, 3]); assert slot.get().value.sum() == 6
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_now_is_the_monotonic_clock() -> None:
    before = time.monotonic_ns()
    assert before <= native.now_ns() <= time.monotonic_ns()


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "int32", "int64", "bool"])
def test_numbers_are_not_rounded(dtype: str) -> None:
    """A list whose numbers a slot has is taken, and no other; the value there stays."""
    slot = rt.Latest((2,), dtype)
    slot.put([1.0, 0])
    for wrong in (
        [1.5, 0],
        [2**70, 0],
        [-(2**70), 0],
        [float("nan"), 0],
        [2, 300] if dtype.endswith("8") else [0.1, 1],
    ):
        with pytest.raises(ShapeError, match="put"):
            slot.put(wrong)
    assert slot.get().value.tolist() == [1, 0] and slot.put([0, 1]) == 2


def test_values_of_other_layouts() -> None:
    numbers = torch.randn(7).tolist()
    half = rt.Latest((7,), "bfloat16")
    half.put(numbers)
    assert torch.equal(tensor_of(half.get()), torch.tensor(numbers).bfloat16())
    strided = torch.randn(14).bfloat16()[::2]
    half.put(strided)
    assert torch.equal(tensor_of(half.get()), strided)
    swapped = rt.Latest((7,))
    swapped.put(np.asarray(numbers, ">f4"))
    assert swapped.get().value.tolist() == np.float32(numbers).tolist()


@pytest.mark.parametrize("name", [5, b"x", "a\0b", "\udc80", "", "a/b", "a\nb"])
def test_names_are_checked(name: Any) -> None:
    for make in (rt.Latest.open, lambda name: rt.Latest(name=name)):
        with pytest.raises(FormatError, match="Latest"):
            make(name)
