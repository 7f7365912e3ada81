"""CuPy arrays in and out: the path on a pretended module over CPU memory, and CuPy itself where it and a GPU are."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import rtaccel as rt
from rtaccel.core.errors import ShapeError


class PretendedArray:
    """An array of the CPU that speaks DLPack, as CuPy's speak it for a GPU."""

    def __init__(self, data: np.ndarray) -> None:
        self.data = data

    def __dlpack__(self, **options: Any) -> Any:
        return self.data.__dlpack__()

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.data.__dlpack_device__()


class PretendedCupy:
    ndarray = PretendedArray

    @staticmethod
    def from_dlpack(tensor: torch.Tensor) -> PretendedArray:
        return PretendedArray(np.from_dlpack(tensor))


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> type[PretendedCupy]:
    monkeypatch.setitem(sys.modules, "cupy", PretendedCupy)  # type: ignore[arg-type]
    return PretendedCupy


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 3)).eval()


@pytest.mark.parametrize("backend", [None, "portable"])
def test_arrays_come_back_as_arrays(backend: str | None, cupy: type[PretendedCupy]) -> None:
    fast = rt.compile(network(), (torch.randn(1, 12),), backend=backend)
    x = np.random.default_rng(0).standard_normal((4, 12), dtype=np.float32)
    y = fast(PretendedArray(x))
    assert isinstance(y, PretendedArray)
    np.testing.assert_array_equal(y.data, fast(torch.from_numpy(x)).numpy())


def test_arrays_are_written_in_place(cupy: type[PretendedCupy]) -> None:
    fast = rt.compile(network(), (torch.randn(1, 12),))
    x, out = np.zeros((2, 12), np.float32), np.full((2, 3), np.nan, np.float32)
    given = PretendedArray(out)
    step = fast.bind(PretendedArray(x), out=given)
    x[:] = 0.5
    assert fast.run(PretendedArray(x), out=given) is given
    want = fast(torch.from_numpy(x)).numpy()
    np.testing.assert_array_equal(out, want)
    x[:] = -1.0
    step()
    np.testing.assert_array_equal(out, fast(torch.from_numpy(x)).numpy())


def test_wrong_arrays_are_named(cupy: type[PretendedCupy]) -> None:
    fast = rt.compile(network(), (torch.randn(1, 12),))
    with pytest.raises(ShapeError, match=r"\[1, 11\]"):
        fast(PretendedArray(np.zeros((1, 11), np.float32)))
    with pytest.raises(ShapeError, match="float64"):
        fast(PretendedArray(np.zeros((1, 12))))


def test_without_cupy_other_arrays_are_refused() -> None:
    fast = rt.compile(network(), (torch.randn(1, 12),))
    with pytest.raises(ShapeError, match="torch tensor"):
        fast(np.zeros((1, 12), np.float32))


def test_cupy_itself() -> None:
    if importlib.util.find_spec("cupy") is None or not torch.cuda.is_available():
        pytest.skip("needs cupy and a GPU: runs on a GPU stay open here")
    import cupy

    fast = rt.compile(network(), (torch.randn(1, 12),), device="cuda", scheme="w8a16")
    with cupy.cuda.Stream(non_blocking=True) as stream:
        x = cupy.random.standard_normal((1, 12), dtype=cupy.float32)
        y = fast(x)
        assert isinstance(y, cupy.ndarray)
        stream.synchronize()
    torch.testing.assert_close(torch.from_dlpack(y), fast(torch.from_dlpack(x)))
