"""Several slots recorded on one clock, and put again in their order."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rtaccel as rt
from rtaccel.cli.main import main
from rtaccel.core.errors import FormatError, UnsupportedProblem
from rtaccel.realtime import Recording, Recordings


def slots() -> dict[str, rt.Latest]:
    return {"imu": rt.Latest((3,)), "goal": rt.Latest((2,), "int64")}


def recorded(count: int = 40) -> tuple[Recordings, list[tuple[str, list[float]]]]:
    made, wrote = slots(), []
    rng = np.random.default_rng(0)
    stop = threading.Event()

    def write() -> None:
        time.sleep(0.05)
        while not stop.is_set():
            name = "imu" if rng.random() < 0.7 else "goal"
            x = rng.normal(size=3).astype(np.float32) if name == "imu" else rng.integers(-9, 9, 2)
            made[name].put(x, stamp_ns=time.monotonic_ns() - 1000)
            wrote.append((name, x.tolist()))
            time.sleep(0.002)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        return Recordings.of(made, seconds=60, count=count), wrote
    finally:
        stop.set()
        writer.join()


def test_values_times_and_order_come_back(tmp_path: Path) -> None:
    got, wrote = recorded()
    assert 40 <= got.n <= 41
    assert set(got.parts) == {"imu", "goal"}
    got.save(tmp_path / "two.npz")
    again = Recordings.load(tmp_path / "two.npz")
    for name, part in got.parts.items():
        other = again.parts[name]
        for field in ("values", "seq", "stamp_ns", "put_ns"):
            assert np.array_equal(getattr(part, field), getattr(other, field))
        kept = [x for n, x in wrote if n == name]
        assert all(row in kept for row in part.values.tolist())
        assert (part.put_ns - part.stamp_ns >= 1000).all()
    order: list[tuple[str, list[float]]] = []
    targets = slots()

    class Watched:
        def __init__(self, name: str, slot: rt.Latest) -> None:
            self.name, self.slot, self.dtype, self.shape = name, slot, slot.dtype, slot.shape

        def put(self, x: Any, stamp_ns: int) -> None:
            self.slot.put(x, stamp_ns=stamp_ns)
            order.append((self.name, x.tolist()))

    begin = time.monotonic_ns()
    assert again.replay({name: Watched(name, slot) for name, slot in targets.items()}, 2.0) == got.n  # type: ignore[misc]
    took = time.monotonic_ns() - begin
    puts = sorted(
        (int(p), name, row)
        for name, part in got.parts.items()
        for p, row in zip(part.put_ns, part.values.tolist(), strict=True)
    )
    assert order == [(name, row) for _, name, row in puts]
    assert took >= (puts[-1][0] - puts[0][0]) / 2
    assert again.replay(targets, 0) == got.n


def test_what_does_not_fit_puts_nothing(tmp_path: Path) -> None:
    got, _ = recorded(5)
    targets = slots()
    for wrong in ({"imu": targets["imu"]}, {**targets, "more": rt.Latest((1,))}):
        with pytest.raises(FormatError, match="slots"):
            got.replay(wrong)
    with pytest.raises(UnsupportedProblem, match="goal"):
        got.replay({**targets, "goal": rt.Latest((2,))}, 0)
    assert all(slot.get().status == "none" for slot in targets.values())
    for seconds, named in ((None, targets), (1.0, {})):
        with pytest.raises(FormatError, match="record"):
            Recordings.of(named, seconds)
    (tmp_path / "bad.npz").write_bytes(b"no file")
    with pytest.raises(FormatError, match="recording"):
        Recordings.load(tmp_path / "bad.npz")
    got.save(tmp_path / "two.npz")
    with np.load(tmp_path / "two.npz") as data:
        arrays = dict(data)
    for change in (
        {"1_seq": arrays["1_seq"][1:]},
        {"dtypes": np.array(["float32", "odd"])},
        {"names": np.array(["a", "a"])},
    ):
        np.savez(tmp_path / "changed.npz", **{**arrays, **change})
        with pytest.raises(FormatError, match="recording"):
            Recordings.load(tmp_path / "changed.npz")


def test_a_recording_of_one_slot_is_one_of_several(tmp_path: Path) -> None:
    got, _ = recorded(5)
    part: Recording = got.parts["imu"]
    part.save(tmp_path / "one.npz")
    assert np.array_equal(Recordings.load(tmp_path / "one.npz").parts[""].values, part.values)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    got, _ = recorded(6)
    got.save(tmp_path / "two.npz")
    names = [f"{name}-{i}" for i in range(2)]
    with rt.Latest((3,), name=names[0]), rt.Latest((2,), "int64", name=names[1]):
        assert main(["loop", "replay", ",".join(names), str(tmp_path / "two.npz"), "--speed", "0", "--json"]) == 0
        assert f'"replayed": {got.n}' in capsys.readouterr().out
        assert main(["loop", "record", ",".join(names), str(tmp_path / "again.npz"), "--seconds", "0.01"]) == 0
        assert set(Recordings.load(tmp_path / "again.npz").parts) == set(names)


@pytest.mark.parametrize("several", [False, True])
def test_damaged_files(tmp_path: Path, several: bool) -> None:
    """Cut anywhere, or with any byte changed, a file is refused or is one recording."""
    one = Recording(np.arange(12.0).reshape(4, 3), *(np.arange(4, dtype=np.int64) + i for i in range(3)), "float64")
    made: Any = Recordings({"a": one, "b": one}) if several else one
    path = tmp_path / "x.npz"
    made.save(path)
    whole, rng = path.read_bytes(), np.random.default_rng()
    cuts = [whole[:n] for n in rng.integers(0, len(whole), 40)] + [b"", whole[:-5]]
    for at in rng.integers(0, len(whole), 200):
        changed = bytearray(whole)
        changed[at] ^= 1 << int(rng.integers(8))
        cuts.append(bytes(changed))
    for data in cuts:
        path.write_bytes(data)
        refused = ""
        try:
            assert type(made).load(path).n == made.n
        except FormatError as error:
            refused = str(error)
        assert refused == "" or refused.startswith("recording:")


def test_arrays_that_are_no_recording(tmp_path: Path) -> None:
    good: dict[str, Any] = {"values": np.zeros((4, 3)), "dtype": np.array("float64"), "version": np.int64(1)}
    good |= {field: np.arange(4) for field in ("seq", "stamp_ns", "put_ns")}
    for name, value in (
        ("seq", np.int64(3)),
        ("seq", np.array(list("abcd"))),
        ("put_ns", np.arange(5)),
        ("values", np.zeros(())),
    ):
        np.savez(tmp_path / "x.npz", **{**good, name: value})
        with pytest.raises(FormatError, match="recording"):
            Recording.load(tmp_path / "x.npz")
