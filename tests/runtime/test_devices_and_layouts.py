"""A device as torch has it, one GPU of several, and results that are sparse tensors."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

import rtaccel as rt
from rtaccel.backends.cuda_streams import StreamOrder, current_index, on_gpu_of
from rtaccel.core.errors import BackendUnavailable, ShapeError, UnsupportedProblem
from rtaccel.core.stage import GraphIO, Value
from rtaccel.runtime.compiler import check_options
from rtaccel.runtime.inputs import fit_inputs
from rtaccel.runtime.options import Options


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu"), torch.device("cpu", 0)])
def test_a_device_may_be_one_of_torch(device: object) -> None:
    model, x = nn.Linear(4, 3).eval(), torch.randn(2, 4)
    assert torch.equal(rt.compile(model, x, device=device)(x), rt.compile(model, x)(x))  # type: ignore[arg-type]
    assert rt.stream(model, x, device=device).step(x).shape == (2, 3)  # type: ignore[arg-type]


@pytest.mark.parametrize("sparse", [Tensor.to_sparse, Tensor.to_sparse_csr])
@pytest.mark.parametrize("alone", [True, False])
def test_a_result_that_is_sparse_stays_one(sparse: Any, alone: bool) -> None:
    class Sparse(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Any:
            y = self.layer(x).relu()
            return sparse(y) if alone else (y, sparse(y))

    model, x = Sparse().eval(), torch.randn(2, 4)
    got, want = rt.compile(model, x)(x), model(x)
    for a, b in ((got, want),) if alone else zip(got, want):
        assert a.layout == b.layout
        torch.testing.assert_close(a.to_dense(), b.to_dense())


# -- of several GPUs, one ----------------------------------------------------------------------------------------------


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """As many calls of torch.cuda as an order makes; the last number is the current GPU."""
    current = [1]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: current[-1])
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: SimpleNamespace(stream_id=1))
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda index: 0, raising=False)
    return current


def test_a_call_runs_on_the_gpu_of_its_plan(gpus: list[int]) -> None:
    order = StreamOrder()
    with order:
        assert gpus == [1]
    torch.cuda.set_device(0)
    with order:
        assert gpus[-1] == 1
        with order:
            assert gpus[-1] == 1
    assert gpus == [1, 0, 1, 0]
    with pytest.raises(ZeroDivisionError), order:
        raise ZeroDivisionError
    assert gpus[-1] == 0


def test_a_plan_is_made_on_the_gpu_of_its_weights(gpus: list[int]) -> None:
    with FakeTensorMode():
        weights = torch.empty(2, device="cuda:3")
    with on_gpu_of(weights):
        assert current_index("cuda") == 3 and current_index("cpu") == -1
    with on_gpu_of(torch.empty(2)):
        assert current_index("cuda") == 1
    assert gpus == [1, 3, 1]


def test_a_call_that_cannot_follow_leaves_the_gpu_as_it_was(gpus: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    order = StreamOrder()
    torch.cuda.set_device(0)

    def broken(index: int) -> int:
        raise RuntimeError("CUDA error")

    with monkeypatch.context() as patch:
        patch.setattr(torch._C, "_cuda_getCurrentRawStream", broken)
        with pytest.raises(RuntimeError, match="CUDA error"), order:
            pass
    assert gpus[-1] == 0
    with order:  # and its lock is free
        assert gpus[-1] == 1


def test_tensors_of_another_gpu_are_named() -> None:
    """They would be read at addresses that the plan's own GPU may not see."""
    port, options = GraphIO(Value("x", 4, "float32"), 1, (4,)), Options(2, "cuda", index=0)
    with FakeTensorMode():
        own, other = (torch.empty(2, 4, device=f"cuda:{index}") for index in (0, 1))
    with pytest.raises(ShapeError, match=r"cuda:1.* on cuda:0. Move it with .to\('cuda:0'\)"):
        fit_inputs("call", [other], [port], options)
    with pytest.raises(UnsupportedProblem, match="a tensor with numbers in memory"):
        fit_inputs("call", [own], [port], options)


@pytest.mark.parametrize(
    ("device", "kind"),
    [("cuda", "cuda"), ("cuda:1", "cuda"), (torch.device("cuda", 1), "cuda"), (torch.device("cuda"), "cuda"),
     ("cpu", "cpu"), ("cpu:0", "cpu"), (torch.device("cpu", 0), "cpu")],
)  # fmt: skip
def test_the_current_gpu_can_be_named(gpus: list[int], device: Any, kind: str) -> None:
    assert check_options(device, None, None) == kind


@pytest.mark.parametrize("device", ["cuda:0", torch.device("cuda", 0), torch.device("cuda", 3)])
def test_another_gpu_is_not_taken_for_the_current_one(gpus: list[int], device: Any) -> None:
    index = torch.device(device).index
    with pytest.raises(BackendUnavailable, match=rf"the current GPU, which is cuda:1. .*set_device\({index}\)"):
        check_options(device, None, None)
