"""Some streams of a loaded model: stepped, moved as bytes, with other weights; and what is refused."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import rtaccel as rt
from rtaccel.core.errors import BudgetExceeded, FormatError, RtaccelError, ShapeError


def live(seed: int = 0, streams: int = 5) -> rt.StreamModel:
    torch.manual_seed(seed)
    return rt.stream(torch.nn.GRU(3, 4, batch_first=True).eval(), torch.randn(streams, 3))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    rt.save(live(), tmp_path / "gru.rta")
    return tmp_path / "gru.rta"


def test_some_streams_are_those_of_the_stream(file: Path) -> None:
    loaded, alone = rt.load(file), live()
    rng = np.random.default_rng()
    for _ in range(20):
        chosen = rng.permutation(5)[: rng.integers(1, 6)].tolist()
        x = rng.standard_normal((len(chosen), 3), np.float32)
        expected = alone.step(torch.from_numpy(x), streams=chosen)
        np.testing.assert_array_equal(loaded.step(x, streams=chosen), expected.numpy())
    out = np.empty((2, 4), np.float32)
    x = rng.standard_normal((2, 3), np.float32)
    assert loaded.step(x, streams=np.array([3, 1]), out=out) is out
    assert torch.equal(alone.step(torch.from_numpy(x), streams=[3, 1]), torch.from_numpy(out))
    tensors = loaded.step(torch.ones(1, 3), streams=[2])
    assert torch.equal(tensors, alone.step(torch.ones(1, 3), streams=[2]))


def test_a_stream_moves_as_bytes(file: Path) -> None:
    here, there, x = rt.load(file), rt.load(file), np.ones((1, 3), np.float32)
    here.step(x, streams=[4])
    there.load_stream(1, here.save_stream(4))
    np.testing.assert_array_equal(here.step(x, streams=[4]), there.step(x, streams=[1]))
    before = there.save_state()
    for bad in (b"", b"a", there.save_stream(1) + b"a"):
        with pytest.raises(FormatError):
            there.load_stream(1, bad)
    assert there.save_state() == before


BAD: dict[str, Any] = {
    "one that there is not": lambda m: m.step(np.ones((1, 3), np.float32), streams=[5]),
    "below 0": lambda m: m.step(np.ones((1, 3), np.float32), streams=[-1]),
    "twice": lambda m: m.step(np.ones((2, 3), np.float32), streams=[1, 1]),
    "no number": lambda m: m.step(np.ones((1, 3), np.float32), streams=["a"]),
    "a truth value": lambda m: m.step(np.ones((1, 3), np.float32), streams=[True]),
    "a fraction": lambda m: m.step(np.ones((1, 3), np.float32), streams=[1.0]),
    "fewer rows": lambda m: m.step(np.ones((1, 3), np.float32), streams=[1, 2]),
    "another width": lambda m: m.step(np.ones((1, 4), np.float32), streams=[1]),
    "another dtype": lambda m: m.step(np.ones((1, 3)), streams=[1]),
    "another out": lambda m: m.step(np.ones((1, 3), np.float32), streams=[1], out=np.empty((2, 4), np.float32)),
    "saving": lambda m: m.save_stream(5),
    "loading": lambda m: m.load_stream(-1, b""),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_streams_move_nothing(file: Path, case: str) -> None:
    loaded = rt.load(file)
    loaded.step(np.ones((5, 3), np.float32))
    before = loaded.save_state()
    with pytest.raises(ShapeError):
        BAD[case](loaded)
    assert loaded.save_state() == before


def test_weights_from_bytes(file: Path, tmp_path: Path) -> None:
    loaded, x = rt.load(file), np.ones((5, 3), np.float32)
    rt.save(live(1), tmp_path / "other.rta")
    content = (tmp_path / "other.rta").read_bytes()
    loaded.swap(content)
    np.testing.assert_array_equal(loaded(x), rt.load(content)(x))
    damaged = bytearray(content)
    damaged[-1] ^= 1
    for bad in (bytes(damaged), b"", content[:100]):
        with pytest.raises(FormatError):
            loaded.swap(bad)
    loaded.rollback()
    again = rt.load(file)
    loaded.reset()
    np.testing.assert_array_equal(loaded(x), again(x))


@pytest.mark.parametrize("kind", [RtaccelError, ShapeError, FormatError, BudgetExceeded])
def test_errors_cross_processes_whole(kind: type[RtaccelError]) -> None:
    error = kind("op", [1, 2], "three", "Add one.")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert str(again) == str(error)
    assert (again.op, again.expected, again.next_step) == ("op", "three", "Add one.")
