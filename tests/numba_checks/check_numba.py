"""The Numba CUDA kernels: in the simulator on CPU tensors, else on the GPU. Started by tests/gpu/test_numba_cuda.py."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
import torch

import rtaccel as rt
from rtaccel.backends import require
from rtaccel.core import settings
from rtaccel.core.errors import FormatError, ShapeError
from rtaccel.core.registry import impls, operator
from rtaccel.core.stage import Problem
from rtaccel.kernels.linear import contract as linear
from rtaccel.kernels.sparse_linear import contract
from tests.support.ud_reference import Reference

require("numba_cuda")
alias = importlib.import_module("rtaccel.kernels._gpu.numba_alias")
csr = importlib.import_module(
    "rtaccel.kernels.sparse_linear.numba_csr"
)  # after the question whether it can be imported
merge = importlib.import_module("rtaccel.kernels.sparse_linear.numba_merge")
sparse = importlib.import_module("rtaccel.kernels.sparse_linear.numba_cuda_csr")
rls = importlib.import_module("rtaccel.kernels.rls.numba_rls")
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


@pytest.mark.parametrize(("d", "steps", "forget"), [(1, 8, 0.98), (3, 8, 0.98), (12, 8, 0.98), (4, 120, 0.5)])
def test_recursive_least_squares(d: int, steps: int, forget: float) -> None:
    """The last one stands still for 60 of its horizons, where the covariance form grows as 2 ** 120."""
    torch.manual_seed(d)
    true, reference = torch.randn(d), Reference(d, 1, 100.0, forget, forget, 100.0)
    there = [t.to(DEVICE) for t in (torch.eye(d), torch.full((d,), 100.0), torch.zeros(d))]
    error, counts = torch.zeros(1, device=DEVICE), torch.zeros(3, dtype=torch.int64, device=DEVICE)
    x = torch.randn(d)
    for step in range(steps):
        if steps < 100 or step > 100:
            x = torch.randn(d)
        y = float(true @ x)
        rls.rls_update(*there, x.to(DEVICE), torch.tensor([y], device=DEVICE), error, counts, forget)
        (said,) = reference.learn(x.double().numpy(), np.array([y]))
        assert float(error) == pytest.approx(float(said), rel=2e-2, abs=2e-2)
    u, diagonal, w = (t.cpu().double().numpy() for t in there)
    np.testing.assert_allclose(w, reference.w[0], rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(u, reference.u, rtol=2e-2, atol=2e-2)
    np.testing.assert_allclose(diagonal, reference.d, rtol=2e-2, atol=2e-3)
    before = [t.clone() for t in there]
    for bad in (float("nan"), float("inf")):
        rls.rls_update(*there, x.to(DEVICE), torch.full((1,), bad, device=DEVICE), error, counts, forget)
        rls.rls_update(
            *there, torch.full((d,), bad, device=DEVICE), torch.ones(1, device=DEVICE), error, counts, forget
        )
    for kept, now in zip(before, there, strict=True):
        assert torch.equal(kept, now)
    assert counts.tolist() == [steps, 4, 0]


def test_a_head_on_the_device() -> None:
    """The public way: what it learns is what `RLSHead` learns, in either direction."""
    rng = np.random.default_rng(0)
    here = rt.online.RLSHead(5, forget=0.98, p0=10.0)
    there = rt.online.CudaRLSHead(5, forget=0.98, p0=10.0)
    assert there.device.type == DEVICE and "CudaRLSHead(5, forget=0.98" in repr(there)

    def learn(count: int) -> None:
        for _ in range(count):
            x, y = rng.normal(size=5).astype(np.float32), rng.normal(size=1).astype(np.float32)
            gx, gy = torch.from_numpy(x).to(DEVICE), torch.from_numpy(y).to(DEVICE)
            np.testing.assert_allclose(there.predict_one(gx).cpu(), here.predict_one(x), rtol=1e-3, atol=1e-3)
            np.testing.assert_allclose(there.learn_one(gx, gy).cpu(), here.learn_one(x, y), rtol=1e-3, atol=1e-3)

    learn(9)
    here.inflate(3.0)
    there.inflate(3.0)
    learn(4)
    there.learn_one(torch.full((5,), float("nan"), device=DEVICE), torch.zeros(1, device=DEVICE))
    assert (there.learned, there.rejected) == (13, 1)
    np.testing.assert_allclose(there.weights.cpu(), here.weights, rtol=1e-3, atol=1e-3)
    here.load_state_dict(there.state_dict())
    assert (here.learned, here.rejected) == (13, 1)
    other = rt.online.CudaRLSHead(5, forget=0.98, p0=10.0)
    other.load_state_dict(here.state_dict())
    assert torch.equal(other.weights, there.weights)
    learn(3)


def test_a_head_that_is_refused() -> None:
    head = rt.online.CudaRLSHead(4)
    x, y = torch.zeros(4, device=DEVICE), torch.zeros(1, device=DEVICE)
    for bad in (torch.zeros(3, device=DEVICE), x.double(), x.cpu().numpy(), x[None]):
        with pytest.raises(ShapeError, match="CudaRLSHead"):
            head.learn_one(bad, y)
    with pytest.raises(ShapeError, match="y "):
        head.learn_one(x, 1.0)
    for features in (0, rls.MAX_D + 1, 2.0, True):
        with pytest.raises(ShapeError, match="features"):
            rt.online.CudaRLSHead(features)
    for settings_ in ({"forget": 0.0}, {"forget": 1.1}, {"p0": -1.0}, {"p0": 5.0, "d_max": 1.0}, {"device": "meta"}):
        with pytest.raises(FormatError):
            rt.online.CudaRLSHead(4, **settings_)
    state = head.state_dict()
    with pytest.raises(FormatError):
        head.load_state_dict({**state, "D": -state["D"]})
    assert head.learned == 0


@pytest.mark.parametrize("scheme", ["float32", "w8a8"])
@pytest.mark.parametrize("zeros", [0.9, 0.99])
def test_a_compiled_model_in_the_csr_kernel(zeros: float, scheme: str) -> None:
    """Where the choice stays dense, `always=True` asks for it; the results are those of the dense kernel."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(40, 20), torch.nn.ReLU()).eval()
    with torch.no_grad():
        weight = model[0].weight
        weight[weight.abs() <= weight.abs().flatten().kthvalue(int(zeros * weight.numel())).values] = 0
    x, calibration = torch.randn(2, 40), [torch.randn(32, 40)] if scheme == "w8a8" else None
    mode = None if DEVICE == "cpu" else "eager"

    def compiled(**more: object) -> rt.CompiledModel:
        return rt.compile(
            model, x, scheme=scheme, calibration=calibration, device=DEVICE, backend="numba_cuda", mode=mode, **more
        )

    dense, sparse_model = compiled(), compiled(sparsity=rt.Unstructured(always=True))
    assert "numba_cuda_csr" not in [line.kernel for line in dense.explain_lines(measure=False)]
    assert "numba_cuda_csr" in [line.kernel for line in sparse_model.explain_lines(measure=False)]
    assert "unstructured, as always=True asks" in sparse_model.explain(measure=False)
    tolerance = {} if scheme == "float32" else {"rtol": 0.0, "atol": 0.0}
    torch.testing.assert_close(sparse_model(x.to(DEVICE)), dense(x.to(DEVICE)), **tolerance)
    pruned = compiled(sparsity=rt.Unstructured(0.95, always=True))
    assert "numba_cuda_csr" in [line.kernel for line in pruned.explain_lines(measure=False)]


@pytest.mark.parametrize(("rows", "width", "density"), [(1, 1, 1.0), (7, 50, 0.3), (20, 130, 0.05), (3, 40, 0.0)])
def test_csr(rows: int, width: int, density: float) -> None:
    dense = torch.randn(rows, width) * (torch.rand(rows, width) < density)
    sparse, x = dense.to_sparse_csr(), torch.randn(width)
    parts = (sparse.crow_indices().int(), sparse.col_indices().int(), sparse.values(), x)
    y = csr.csr_matvec(*(t.to(DEVICE) for t in parts))
    bound = width * torch.finfo(torch.float32).eps * (dense.abs() @ x.abs())
    assert ((y.cpu().double() - dense.double() @ x.double()).abs() <= bound).all()


@pytest.mark.parametrize(
    ("rows", "width", "density"), [(1, 1, 1.0), (7, 50, 0.3), (40, 60, 0.02), (3, 40, 0.0), (2, 90, 1.0)]
)
def test_csr_along_the_merge_path(rows: int, width: int, density: float) -> None:
    """Empty rows at either end, rows that several threads share, and one that has all."""
    dense = torch.randn(rows, width) * (torch.rand(rows, width) < density)
    if rows > 3:
        dense[[0, -1]] = 0
        dense[2] = torch.randn(width)
    sparse, x = dense.to_sparse_csr(), torch.randn(3, width)
    parts = [t.to(DEVICE) for t in (sparse.crow_indices().int(), sparse.col_indices().int(), sparse.values(), x)]
    y = merge.csr_matmul(*parts)
    bound = width * torch.finfo(torch.float32).eps * (x.abs() @ dense.abs().T)
    assert ((y.cpu().double() - x.double() @ dense.double().T).abs() <= bound).all()
    assert torch.equal(y, merge.csr_matmul(*parts))


@pytest.mark.parametrize(("merged", "most"), [(False, 6), (True, 55)])
def test_sparse_linear_equals_its_contract(merged: bool, most: int) -> None:
    """The simulator gives each of a block's threads one of the machine: few outputs where a block has one."""
    (impl,) = impls("numba_cuda", "sparse_linear")
    ran = 0
    for case in operator("sparse_linear").cases():
        inputs = case.make(torch.randint(1 << 30, ()).item())
        problem = Problem.of(case.stage, inputs[0].shape[0], DEVICE)
        if impl.supports(problem) is not None or problem.out_widths[0] * problem.rows > most:
            continue
        low = operator("sparse_linear").lower(case.stage)
        (got,) = sparse.build(low, case.stage, DEVICE, merged)(*(t.to(DEVICE) for t in inputs))
        (want,) = operator("sparse_linear").reference(case.stage, *inputs)
        near = torch.as_tensor(operator("sparse_linear").tolerance(case.stage, *inputs).atol)
        assert got.dtype == want.dtype
        assert ((got.cpu().double() - want.double()).abs() <= near).all(), case.id
        ran += 1
    assert ran >= most // 2


@pytest.mark.parametrize("merged", [False, True])
def test_a_sparse_row_that_is_not_finite_is_nan_and_alone(merged: bool) -> None:
    stage = contract.make_stage(20, 9, "float32", "window", 0.2, activation="relu")
    x = torch.randn(3, 20)
    x[1, 7] = float("inf")
    (y,) = sparse.build(contract.lower(stage), stage, DEVICE, merged)(x.to(DEVICE))
    assert y[1].isnan().all()
    assert y[[0, 2]].isfinite().all()


@pytest.mark.parametrize("most", [1, 2])
def test_rows_beyond_the_grid(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA takes 65,535 blocks along an axis; here one or two, and five rows: blocks take several, one after another."""
    monkeypatch.setattr(alias, "MAX_ROWS", most)
    assert (alias.grid_rows(5), alias.grid_rows(1)) == (most, 1)
    rows = 5
    for kind in ("static", "dynamic"):
        stage = linear.make_stage(37, 3, kind, "relu")
        inputs = linear.make_inputs(stage, rows, 1)
        (impl,) = impls("numba_cuda", "linear")
        (got,) = impl.prepare(stage, Problem.of(stage, rows, DEVICE))(*(t.to(DEVICE) for t in inputs))
        assert torch.equal(got.cpu(), operator("linear").reference(stage, *inputs)[0])
    for kind, out in (("static", "int8"), ("dynamic", "float32"), ("float32", "float32")):
        stage = contract.make_stage(20, 4, kind, "window", 0.4, out=out)
        inputs = linear.make_inputs(stage, rows, 2)
        want, tolerance = contract.reference(stage, *inputs)[0], operator("sparse_linear").tolerance(stage, *inputs)
        for merged in (False, True):
            call = sparse.build(contract.lower(stage), stage, DEVICE, merged)
            (got,) = call(*(t.to(DEVICE) for t in inputs))
            assert ((got.cpu().double() - want.double()).abs() <= torch.as_tensor(tolerance.atol)).all(), (kind, merged)
    parts = torch.randn(6, 9).to_sparse_csr()
    x = torch.randn(rows, 9)
    there = [t.to(DEVICE) for t in (parts.crow_indices().int(), parts.col_indices().int(), parts.values(), x)]
    torch.testing.assert_close(merge.csr_matmul(*there).cpu(), x @ parts.to_dense().T)


def test_uneven_rows_take_the_merge_path() -> None:
    assert not sparse.uneven(torch.arange(0, 40, 4))
    assert sparse.uneven(torch.tensor([0, 0, 900] + [901 + i for i in range(20)]))
    assert not sparse.uneven(torch.zeros(1))
    assert not sparse.uneven(torch.tensor([0, 3]))


def test_wrong_input_is_refused() -> None:
    sample = (torch.zeros(1), torch.zeros(1), torch.zeros(3, dtype=torch.int64))
    fine = (torch.eye(3), torch.ones(3), torch.zeros(3), torch.zeros(3), *sample)
    with pytest.raises(ShapeError, match="rls"):
        rls.rls_update(torch.eye(3), torch.ones(3), torch.zeros(2), torch.zeros(3), *sample)
    with pytest.raises(ShapeError, match=str(rls.MAX_D)):
        rls.rls_update(torch.eye(257), *(torch.zeros(rls.MAX_D + 1) for _ in range(3)), *sample)
    with pytest.raises(FormatError, match="forget"):
        rls.rls_update(*fine, forget=0.0)
    with pytest.raises(FormatError, match="d_max"):
        rls.rls_update(*fine, d_max=float("nan"))
    with pytest.raises(ShapeError, match="csr"):
        csr.csr_matvec(
            torch.zeros(3, dtype=torch.int32), torch.zeros(2, dtype=torch.int32), torch.zeros(3), torch.zeros(4)
        )
    with pytest.raises(ShapeError, match="csr"):
        merge.csr_matmul(torch.zeros(3, dtype=torch.int32), torch.zeros(2), torch.zeros(2), torch.zeros(4))
    stage = contract.make_stage(8, 4, "dynamic", "window", 0.5)
    call = sparse.prepare(stage, Problem.of(stage, 1, DEVICE))
    with pytest.raises(ShapeError, match="row_scale"):
        call(torch.zeros(1, 8, dtype=torch.int8, device=DEVICE))
    with pytest.raises(ShapeError, match="contiguous"):
        call(torch.zeros(1, 7, dtype=torch.int8, device=DEVICE), torch.ones(1, 1, device=DEVICE))
