"""What can be wrong with a GPU, or with what is given to it: one typed error that names the cause and the next step.

No GPU, out of memory and sticky errors under graphs are in test_cuda_graph.py, foreign arrays in test_interop.py, kernels that
were not built in test_build_kernels.py, cards that may not keep a kernel in test_resident.py.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import rtaccel as rt
from rtaccel.backends import cuda_errors, get_backend, require
from rtaccel.core import settings
from rtaccel.plan.group import StagedPlan
from rtaccel.runtime.gpu.persistent_choice import TRITON, allowed

X = torch.randn(2, 12)


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 3)).eval()


@pytest.fixture(autouse=True)
def alive() -> Iterator[None]:
    yield
    cuda_errors.revive()


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """A card that only says what it is, on a machine where no kernels were built."""
    monkeypatch.setenv(settings.KERNELS, str(tmp_path))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA Test")
    monkeypatch.setenv("CC", "cc")
    return monkeypatch


def test_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for mode in (None, "graph", "eager", "persistent"):
        with pytest.raises(rt.BackendUnavailable, match=r"GPU.*\. "):
            rt.compile(network(), (X,), device="cuda", mode=mode)


@pytest.mark.parametrize("name", ["triton", "numba_cuda"])
def test_a_package_that_is_not_there(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n, *a: None if n.startswith(("triton", "numba_cuda")) else found(n, *a)
    )
    extra = {"triton": "gpu", "numba_cuda": "numba"}[name]
    with pytest.raises(rt.BackendUnavailable, match=rf"not installed.*rtaccel\[{extra}\]"):
        require(name)
    with pytest.raises(rt.BackendUnavailable, match="not installed"):
        rt.compile(network(), (X,), backend=name)


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_a_card_that_is_too_old(card: pytest.MonkeyPatch) -> None:
    assert get_backend("triton").unavailable() is None
    card.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    with pytest.raises(rt.BackendUnavailable, match=r"NVIDIA Test has compute capability 7\.5.*8\.0"):
        require("triton")


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_no_compiler_and_no_kernels(card: pytest.MonkeyPatch) -> None:
    card.delenv("CC")
    card.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(rt.BackendUnavailable, match=r"C compiler.*build-kernels"):
        require("triton")


def test_tensors_on_the_wrong_device() -> None:
    fast, elsewhere = rt.compile(network(), (X,)), X.to("meta")
    layer = rt.nn.QuantLinear.from_float(nn.Linear(12, 3), rt.W8A16())
    for call in (
        lambda: fast(elsewhere),
        lambda: fast.run(X, out=torch.empty(2, 3, device="meta")),
        lambda: fast.bind(elsewhere, out=torch.empty(2, 3)),
        lambda: layer(elsewhere),
    ):
        with pytest.raises(rt.ShapeError, match=r"meta.*cpu"):
            call()


def test_arrays_of_nobody_known() -> None:
    """A layer takes tensors alone; a compiled model takes NumPy's arrays too, and nothing that is no array."""
    layer = rt.nn.QuantLinear.from_float(nn.Linear(12, 3), rt.W8A16())
    with pytest.raises(rt.ShapeError, match=r"ndarray.*torch tensor"):
        layer(np.zeros((2, 12), np.float32))
    fast = rt.compile(network(), (X,))
    assert torch.equal(fast(np.zeros((2, 12), np.float32)), fast(torch.zeros(2, 12)))
    with pytest.raises(rt.ShapeError, match=r"object.*torch tensor"):
        fast(object())


@pytest.mark.parametrize("what", ["layer", "model"])
def test_a_sticky_error_without_a_graph(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels launched one by one, by a layer or in mode="eager": the error is typed, and the CPU goes on."""
    layer = rt.nn.QuantLinear.from_float(nn.Linear(12, 3), rt.W8A8(activation="dynamic"))
    fast: Any = rt.compile(network(), (X,), backend="portable")
    plan = fast._executor.steps[0].plan
    assert isinstance(plan, StagedPlan)

    def broken(*_: torch.Tensor) -> tuple[torch.Tensor, ...]:
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nsecond line")

    monkeypatch.setattr(plan, "_device", "cuda")
    monkeypatch.setattr(plan, "_fits", lambda tensors, ports: True)
    monkeypatch.setattr(plan, "_steps", [(broken, *plan._steps[0][1:])])
    if what == "layer":
        monkeypatch.setitem(layer.__dict__, "_call", plan.call)
    call = layer if what == "layer" else fast
    with pytest.raises(rt.BackendUnavailable, match=r"illegal memory access.*device='cpu'"):
        call(X)
    assert cuda_errors.dead() is not None
    with pytest.raises(rt.BackendUnavailable, match="no CUDA call of this process works"):
        call(X)
    assert rt.compile(network(), (X,))(X).isfinite().all()


def test_out_of_memory_without_a_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    fast: Any = rt.compile(network(), (X,), backend="portable")
    plan = fast._executor.steps[0].plan

    def full(*_: torch.Tensor) -> tuple[torch.Tensor, ...]:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(plan, "_device", "cuda")
    monkeypatch.setattr(plan, "_fits", lambda tensors, ports: True)
    monkeypatch.setattr(plan, "_steps", [(full, *plan._steps[0][1:])])
    with pytest.raises(rt.UnsupportedProblem, match=r"2 GiB.*Free memory"):
        fast(X)
    assert cuda_errors.dead() is None


def test_kernels_in_cuda_c_as_a_backend() -> None:
    """They are those of the persistent mode: asked for elsewhere, each error says so; and nothing else answers in their place."""
    model, x = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).eval(), torch.randn(1, 8)
    with pytest.raises(rt.BackendUnavailable, match="'cuda' on cpu"):
        rt.compile(model, (x,), backend="cuda")
    for mode in (None, "graph", "eager"):
        with pytest.raises(rt.UnsupportedProblem, match="mode='persistent'"):
            rt.compile(model, (x,), device="cuda", backend="cuda", mode=mode)
    if not torch.cuda.is_available():
        with pytest.raises(rt.BackendUnavailable):
            rt.compile(model, (x,), "w8a8", calibration=[x], device="cuda", backend="cuda", mode="persistent")
    assert allowed(TRITON)
