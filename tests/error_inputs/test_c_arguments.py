"""Arguments of the C library that are wrong, and results that do not fit: a code or a typed error, and no crash."""

from __future__ import annotations

import ctypes
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
