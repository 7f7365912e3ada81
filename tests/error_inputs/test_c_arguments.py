"""Arguments of the C library that are wrong, and results that do not fit: a code or a typed error, and no crash."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import rtaccel as rt
from rtaccel import _native as native

BAD_ARGUMENT = 8


@pytest.fixture(scope="module")
def library() -> ctypes.CDLL:
    found = ctypes.CDLL(str(Path(native.__file__).with_name("librtaccel.so")))
    for name in ("rta_model_open", "rta_model_from_memory"):
        getattr(found, name).restype = ctypes.c_void_p
    found.rta_error.restype = ctypes.c_char_p
    found.rta_model_close.argtypes = [ctypes.c_void_p]
    return found


@pytest.mark.parametrize("flags", [8, 0x10, 0xFFFF, 1 << 31])
def test_unknown_flags_are_refused(library: ctypes.CDLL, flags: int, tmp_path: Path) -> None:
    file = str(rt.save(rt.compile(nn.Linear(4, 2).eval(), (torch.randn(1, 4),)), tmp_path / "a.rta")).encode()
    assert library.rta_model_open(file, ctypes.c_uint(flags)) is None
    assert library.rta_error_code() == BAD_ARGUMENT
    assert f"{flags & ~7:#x}".encode() in library.rta_error()
    known = library.rta_model_open(file, ctypes.c_uint(7))
    assert known is not None
    library.rta_model_close(known)


def test_bytes_at_no_address_are_refused(library: ctypes.CDLL) -> None:
    for flags in (0, 4):
        assert library.rta_model_from_memory(None, ctypes.c_size_t(10), ctypes.c_uint(flags)) is None
        assert library.rta_error_code() == BAD_ARGUMENT


def test_a_result_that_does_not_fit_the_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As of a file whose shapes were changed, and signed again."""
    loaded = rt.load(rt.save(rt.compile(nn.Linear(4, 2).eval(), (torch.randn(1, 4),)), tmp_path / "a.rta"))
    x = np.ones((3, 4), np.float32)
    want = loaded(x)

    def none_left(*args: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(np, "empty", none_left)
        with pytest.raises(rt.FormatError, match="no memory"):
            loaded(x)
    np.testing.assert_array_equal(loaded(x), want)


def stepped(library: ctypes.CDLL, model: object, inputs: list[object], outputs: list[object], samples: int) -> int:
    """Addresses of arrays, or None for one that is not given."""

    def addresses(arrays: list[object]) -> ctypes.Array[ctypes.c_void_p]:
        return (ctypes.c_void_p * 4)(*[a.ctypes.data if isinstance(a, np.ndarray) else None for a in arrays])

    return int(
        library.rta_model_step(
            ctypes.c_void_p(model),
            addresses(inputs),
            addresses(outputs),
            ctypes.c_int64(samples),  # type: ignore[arg-type]
        )
    )


class TestStep:
    """Whatever a step refuses has a text that says what and how much, and a code: not the one of the call before."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(11, 3)

        def forward(self, index: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return self.table(index), x * 2

    @pytest.fixture
    def model(self, library: ctypes.CDLL, tmp_path: Path) -> Iterator[int]:
        fast = rt.compile(self.Two().eval(), (torch.tensor([1, 2]), torch.randn(2, 3)), max_batch=4)
        file = rt.save(
            fast, tmp_path / "two.rta", name="two", input_names=["index", "x"], output_names=["row", "twice"]
        )
        found = library.rta_model_open(str(file).encode(), 0)
        assert found is not None
        yield found
        library.rta_model_close(ctypes.c_void_p(found))

    def arrays(self) -> tuple[list[object], list[object]]:
        return [np.zeros(4, np.int64), np.ones((4, 3), np.float32)], [np.empty((4, 3), np.float32) for _ in range(2)]

    @pytest.mark.parametrize("samples", [-1, 5, 1 << 40, -(1 << 63)])
    def test_samples(self, library: ctypes.CDLL, model: int, samples: int) -> None:
        inputs, outputs = self.arrays()
        assert stepped(library, model, inputs, outputs, 4) == 0
        assert stepped(library, model, inputs, outputs, samples) == -1
        assert library.rta_error_code() == BAD_ARGUMENT
        assert library.rta_error() == f"a step of {samples} samples; two takes batches of 0 to 4".encode()

    def test_no_address(self, library: ctypes.CDLL, model: int) -> None:
        for side, names in ((0, ["index", "x"]), (1, ["row", "twice"])):
            for i, name in enumerate(names):
                arrays = self.arrays()
                arrays[side][i] = None
                assert stepped(library, model, *arrays, 2) == -1
                assert library.rta_error_code() == BAD_ARGUMENT
                assert f"put {name} of two has no address".encode() in library.rta_error()
                assert stepped(library, model, [None, None], [None, None], 0) == 0

    @pytest.mark.parametrize("index", [11, -1, 1 << 62])
    def test_an_index_has_a_code(self, library: ctypes.CDLL, model: int, index: int) -> None:
        inputs, outputs = self.arrays()
        inputs[0] = np.array([0, 0, index, 0])
        assert stepped(library, model, *self.arrays(), 4) == 0
        assert stepped(library, model, inputs, outputs, 4) == -1
        assert library.rta_error_code() == BAD_ARGUMENT
        assert str(index).encode() in library.rta_error()

    def test_streams(self, library: ctypes.CDLL, tmp_path: Path) -> None:
        live = rt.stream(nn.GRU(3, 4, batch_first=True).eval(), torch.randn(2, 3))
        model = library.rta_model_open(str(rt.save(live, tmp_path / "gru.rta", name="gru")).encode(), 0)
        x, y = np.ones((3, 3), np.float32), np.empty((3, 4), np.float32)
        assert stepped(library, model, [x], [y], 1) == -1
        assert b"1 samples; gru has 2 streams (rta_model_step_some" in library.rta_error()
        for listed, said in (((0, 0), b"twice"), ((0, 7), b"not"), (None, b"streams is NULL")):
            streams = None if listed is None else (ctypes.c_int64 * 2)(*listed)
            given = [(ctypes.c_void_p * 1)(array.ctypes.data) for array in (x, y)]
            assert library.rta_model_step_some(ctypes.c_void_p(model), *given, ctypes.c_int64(2), streams) == -1
            assert library.rta_error_code() == BAD_ARGUMENT and said in library.rta_error()
        library.rta_model_close(ctypes.c_void_p(model))


def test_more_bytes_than_there_can_be(library: ctypes.CDLL) -> None:
    library.rta_model_from_memory.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint]
    held = ctypes.create_string_buffer(64)
    for size in (1 << 62, (1 << 64) - 1):
        assert library.rta_model_from_memory(held, size, 0) is None
        assert b"no memory" in library.rta_error()


def test_a_batch_of_a_loop_that_no_memory_holds(library: ctypes.CDLL, tmp_path: Path) -> None:
    file = rt.save(rt.compile(nn.Linear(5, 3).eval(), torch.randn(1, 5)), tmp_path / "a.rta")
    model = ctypes.c_void_p(library.rta_model_open(str(file).encode(), 0))
    library.rta_loop_error_text.restype = ctypes.c_char_p
    room = [ctypes.create_string_buffer(4096) for _ in range(3)]
    assert library.rta_step_of_model(model, ctypes.c_int64(7), *room) == 0
    for batch in (-1, (1 << 62) // 5, (1 << 63) - 1):
        assert library.rta_step_of_model(model, ctypes.c_int64(batch), *room) == -1
        assert str(batch).encode() in library.rta_loop_error_text()
    library.rta_model_close(model)
