"""The Numba CUDA kernels: in the simulator on CPU tensors, else on the GPU. Started by tests/test_numba_cuda.py."""

from __future__ import annotations

import importlib

import pytest
import torch

import rtaccel as rt
from rtaccel.backends import require
from rtaccel.core import settings
from rtaccel.core.errors import FormatError, ShapeError
from rtaccel.core.registry import impls, operator
from rtaccel.core.stage import Problem

require("numba_cuda")
csr = importlib.import_module("rtaccel.kernels._shared.numba_csr")  # after the question whether it can be imported
rls = importlib.import_module("rtaccel.kernels._shared.numba_rls")
DEVICE = "cpu" if settings.numba_simulator() else "cuda"


def test_linear_equals_its_contract() -> None:
    (impl,) = impls("numba_cuda", "linear")
    ran = 0
    for case in operator("linear").cases():
        inputs = case.make(3)
        problem = Problem.of(case.stage, inputs[0].shape[0], DEVICE)
        if impl.supports(problem) is not None or problem.out_widths[0] * problem.rows > 24:
            continue
        (got,) = impl.prepare(case.stage, problem)(*(t.to(DEVICE) for t in inputs))
        (want,) = operator("linear").reference(case.stage, *inputs)
        assert torch.equal(got.cpu(), want), case.id
        ran += 1
    assert ran >= 6


def test_a_model_on_this_backend() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(12, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3)).eval()
    x = torch.randn(2, 12)
    scheme = rt.W8A8(activation="dynamic")
    fast = rt.compile(
        model, (x,), scheme=scheme, device=DEVICE, backend="numba_cuda", mode=None if DEVICE == "cpu" else "eager"
    )
    plain = rt.compile(model, (x,), scheme=scheme, backend="portable")
    torch.testing.assert_close(fast(x.to(DEVICE)).cpu(), plain(x), rtol=0, atol=0)
    assert "numba_cuda_gemv" in fast.explain(measure=False)


@pytest.mark.parametrize("d", [1, 3, 12])
def test_recursive_least_squares(d: int) -> None:
    torch.manual_seed(d)
    p, w, true = torch.eye(d) * 100, torch.zeros(d), torch.randn(d)
    wide_p, wide_w = p.double(), w.double()
    there = [t.to(DEVICE) for t in (p.clone(), w.clone())]
    for _ in range(8):
        x = torch.randn(d)
        y, forget = float(true @ x), 0.98
        rls.rls_update(there[0], there[1], x.to(DEVICE), y, forget)
        px = wide_p @ x.double()
        k = px / (forget + x.double() @ px)
        wide_w = wide_w + k * (y - wide_w @ x.double())
        wide_p = (wide_p - torch.outer(k, px)) / forget
    torch.testing.assert_close(there[1].cpu().double(), wide_w, rtol=2e-3, atol=2e-3)
    torch.testing.assert_close(there[0].cpu().double(), wide_p, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize(("rows", "width", "density"), [(1, 1, 1.0), (7, 50, 0.3), (20, 130, 0.05), (3, 40, 0.0)])
def test_csr(rows: int, width: int, density: float) -> None:
    dense = torch.randn(rows, width) * (torch.rand(rows, width) < density)
    sparse, x = dense.to_sparse_csr(), torch.randn(width)
    parts = (sparse.crow_indices().int(), sparse.col_indices().int(), sparse.values(), x)
    y = csr.csr_matvec(*(t.to(DEVICE) for t in parts))
    bound = width * torch.finfo(torch.float32).eps * (dense.abs() @ x.abs())
    assert ((y.cpu().double() - dense.double() @ x.double()).abs() <= bound).all()


def test_wrong_input_is_refused() -> None:
    with pytest.raises(ShapeError, match="rls"):
        rls.rls_update(torch.eye(3), torch.zeros(2), torch.zeros(3), 0.0)
    with pytest.raises(ShapeError, match=str(rls.MAX_D)):
        rls.rls_update(torch.eye(rls.MAX_D + 1), torch.zeros(rls.MAX_D + 1), torch.zeros(rls.MAX_D + 1), 0.0)
    with pytest.raises(FormatError, match="forget"):
        rls.rls_update(torch.eye(3), torch.zeros(3), torch.zeros(3), 0.0, forget=0.0)
    with pytest.raises(ShapeError, match="csr"):
        csr.csr_matvec(
            torch.zeros(3, dtype=torch.int32), torch.zeros(2, dtype=torch.int32), torch.zeros(3), torch.zeros(4)
        )
