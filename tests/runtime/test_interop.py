"""CuPy arrays in and out: the path on a fake module over CPU memory, and CuPy itself where it and a GPU are."""

from __future__ import annotations

import importlib.util
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

import rtaccel as rt
from rtaccel.core.errors import ShapeError
from tests.gpu.with_cupy.fake_cupy import FakeArray, FakeCupy


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> FakeCupy:
    made = FakeCupy()
    monkeypatch.setitem(sys.modules, "cupy", made)  # type: ignore[arg-type]
    return made


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 3)).eval()


@pytest.mark.parametrize("backend", [None, "portable"])
def test_arrays_come_back_as_arrays(backend: str | None, cupy: FakeCupy) -> None:
    fast = rt.compile(network(), (torch.randn(1, 12),), backend=backend)
    x = np.random.default_rng(0).standard_normal((4, 12), dtype=np.float32)
    y = fast(FakeArray(x))
    assert isinstance(y, FakeArray)
    np.testing.assert_array_equal(y.data, fast(torch.from_numpy(x)).numpy())


def test_arrays_are_written_in_place(cupy: FakeCupy) -> None:
    fast = rt.compile(network(), (torch.randn(1, 12),))
    x, out = np.zeros((2, 12), np.float32), np.full((2, 3), np.nan, np.float32)
    given = FakeArray(out)
    step = fast.bind(FakeArray(x), out=given)
    x[:] = 0.5
    assert fast.run(FakeArray(x), out=given) is given
    want = fast(torch.from_numpy(x)).numpy()
    np.testing.assert_array_equal(out, want)
    x[:] = -1.0
    step()
    np.testing.assert_array_equal(out, fast(torch.from_numpy(x)).numpy())


def layers() -> list[Any]:
    """Every module of rtaccel.nn with the inputs of a call."""
    r = np.random.default_rng(0)
    x, image = r.standard_normal((3, 16), dtype=np.float32), r.standard_normal((1, 3, 6, 6), dtype=np.float32)
    hx = r.standard_normal((1, 5), dtype=np.float32)
    series = (r.standard_normal((4, 16), dtype=np.float32),) * 3
    dynamic = rt.W8A8(activation="dynamic")
    attention = rt.nn.QuantMultiheadAttention.from_float(nn.MultiheadAttention(16, 2), dynamic)
    return [
        pytest.param(rt.nn.QuantLinear.from_float(nn.Linear(16, 5), dynamic), (x,), id="linear"),
        pytest.param(rt.nn.QuantLinear.from_float(nn.Linear(16, 5), rt.W4A16()), (x,), id="linear-w4a16"),
        pytest.param(rt.nn.SparseLinear.from_float(nn.Linear(16, 5), sparsity=rt.Unstructured(0.5)), (x,), id="sparse"),
        pytest.param(
            rt.nn.QuantConv2d.from_float(nn.Conv2d(3, 4, 3), rt.W8A8(), torch.randn(8, 3, 6, 6)), (image,), id="conv"
        ),
        pytest.param(rt.nn.QuantLSTM.from_float(nn.LSTM(16, 5), dynamic), (x, (hx, hx.copy())), id="lstm"),
        pytest.param(rt.nn.QuantGRU.from_float(nn.GRU(16, 5), dynamic), (x,), id="gru"),
        pytest.param(rt.nn.QuantEmbedding.from_float(nn.Embedding(9, 4)), (np.array([[1, 8, 0]]),), id="embedding"),
        pytest.param(attention.eval(), series, id="attention"),
    ]


@pytest.mark.parametrize(("layer", "inputs"), layers())
def test_modules_take_and_give_arrays(layer: nn.Module, inputs: tuple[Any, ...], cupy: FakeCupy) -> None:
    """The memory of the arrays is read where it lies: a change in it is seen by the next call."""
    plain = pytree.tree_map(torch.from_numpy, inputs)
    for _ in range(2):
        got = pytree.tree_leaves(layer(*pytree.tree_map(FakeArray, inputs)))
        want = pytree.tree_leaves(layer(*plain))
        assert len(got) == len(want)
        for array, tensor in zip(got, want):
            assert isinstance(array, FakeArray)
            np.testing.assert_array_equal(array.data, tensor.numpy())
        first = inputs[0]
        first[:] = first[..., ::-1].copy()


def test_modules_run_on_the_stream_of_the_arrays(cupy: FakeCupy, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the module launches is inside torch's stream context for CuPy's stream; here both are fake, and keep a log."""
    log: list[str] = []

    class Stream:
        def __init__(self, pointer: int) -> None:
            self.pointer = pointer

        def __enter__(self) -> None:
            log.append(f"on {self.pointer}")

        def __exit__(self, *_: object) -> None:
            log.append("off")

    current = SimpleNamespace(cuda=SimpleNamespace(get_current_stream=lambda: SimpleNamespace(ptr=77)))
    monkeypatch.setattr(cupy, "cuda", current.cuda)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "ExternalStream", lambda pointer: Stream(pointer))
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: stream)
    layer = rt.nn.QuantLinear.from_float(nn.Linear(16, 5), rt.W8A8(activation="dynamic"))
    layer.register_forward_hook(lambda *_: log.append("ran"))
    layer(FakeArray(np.zeros((1, 16), np.float32)))
    assert log == ["on 77", "ran", "off", "ran"]  # the call with tensors, inside, and the one with arrays around it


def test_wrong_arrays_of_modules_are_named(cupy: FakeCupy) -> None:
    layer = rt.nn.QuantLinear.from_float(nn.Linear(16, 5), rt.W8A16())
    with pytest.raises(ShapeError, match=r"\[1, 11\]"):
        layer(FakeArray(np.zeros((1, 11), np.float32)))
    with pytest.raises(ShapeError, match="float64"):
        layer(FakeArray(np.zeros((1, 16))))


def test_wrong_arrays_are_named(cupy: FakeCupy) -> None:
    fast = rt.compile(network(), (torch.randn(1, 12),))
    with pytest.raises(ShapeError, match=r"\[1, 11\]"):
        fast(FakeArray(np.zeros((1, 11), np.float32)))
    with pytest.raises(ShapeError, match="float64"):
        fast(FakeArray(np.zeros((1, 12))))


def test_without_cupy_numpy_is_taken_and_what_is_no_array_refused() -> None:
    fast, x = rt.compile(network(), (torch.randn(1, 12),)), torch.randn(1, 12)
    assert torch.equal(fast(x.numpy()), fast(x))
    assert torch.equal(fast(x.numpy()[:, ::-1]), fast(x.flip(1)))
    with pytest.raises(ShapeError, match="Nest them as those of the example"):
        fast([[0.0] * 12])
    with pytest.raises(ShapeError, match="torch tensor"):
        fast("text")


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


def test_a_raw_kernel_by_cupy_itself() -> None:
    if importlib.util.find_spec("cupy") is None or not torch.cuda.is_available():
        pytest.skip("needs cupy and a GPU: runs on a GPU stay open here")
    import cupy

    code = r"""extern "C" __global__ void half(const float* x, float* y, int n) {
        int i = blockIdx.x * blockDim.x + threadIdx.x;
        if (i < n) y[i] = 0.5f * x[i];
    }"""
    half = rt.raw_kernel(
        "tests::half_by_cupy", cupy.RawKernel(code, "half"), outputs=torch.empty_like, cpu=lambda x: 0.5 * x,
        launch=lambda x, y: ((-(-x.numel() // 64),), (64,), (x, y, np.int32(x.numel()))),
    )  # fmt: skip

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(12, 16), nn.Linear(16, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(half(self.first(x)))

    net, x = Net().eval(), torch.randn(2, 12)
    fast = rt.compile(net, x, device="cuda", strict=True)
    assert "one CUDA graph for 2 rows" in fast.explain(measure=False)
    torch.testing.assert_close(fast(x.cuda()).cpu(), net(x).detach())
