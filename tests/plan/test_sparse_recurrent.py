"""Sparse LSTM and GRU: the bits of the dense ones, taken where faster, streamed, pruned. Kernels: test_conformance.py."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt
from rtaccel.core.registry import impls
from rtaccel.core.stage import Problem, Stage
from rtaccel.kernels.recurrent.cases import make_inputs, make_stage
from rtaccel.kernels.recurrent.layout import Geometry
from rtaccel.plan import sparse_recurrent as forms

KINDS = [("lstm", 4, nn.LSTM, rt.nn.QuantLSTM), ("gru", 3, nn.GRU, rt.nn.QuantGRU)]
kinds = pytest.mark.parametrize("kind", KINDS, ids=lambda k: k[0])


def dense_of(stage: Stage) -> Stage:
    return replace(stage, attrs={**stage.attrs, "layout": "dense"})


class Net(nn.Module):
    def __init__(self, layer: type[nn.LSTM] | type[nn.GRU]) -> None:
        super().__init__()
        self.memory, self.head = layer(70, 72, 2, batch_first=True), nn.Linear(72, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.memory(x)[0])


def with_zeros(model: nn.Module, density: float = 0.1) -> nn.Module:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "memory.weight" in name or name.startswith("weight"):
                parameter *= torch.rand_like(parameter) < density
    return model.eval()


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sparse wherever it could be, whatever the noise of this machine says."""
    monkeypatch.setattr(forms, "time", lambda stage, rows: 1.0 if stage.attrs.get("layout") == "sparse" else 2.0)


@kinds
@pytest.mark.parametrize("geometry", [Geometry(150, layers=2), Geometry(40, directions=2, time=7, batch=3)], ids=str)
def test_every_set_gives_the_integers_of_the_dense_kernel(kind, geometry: Geometry) -> None:
    op, gates, _, _ = kind
    sparse = make_stage(op, gates, geometry, 130, "int8-static", "int8", density=0.1)
    inputs = make_inputs(sparse, 3, seed=1)
    results = []
    for stage in (sparse, dense_of(sparse)):
        problem = Problem.of(stage, 3)
        taken = [i for i in impls("cpu", op) if i.supports(problem) is None]
        assert taken and all(("sparse" in i.name) == (stage is sparse) for i in taken)
        results += [i.prepare(stage, problem)(*inputs) for i in taken]
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0]))


@kinds
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_float_stream_that_is_not_finite_is_nan_and_alone(kind, value: float) -> None:
    op, gates, _, _ = kind
    stage = make_stage(op, gates, Geometry(40, time=3, batch=2), 50, density=0.1)
    inputs = make_inputs(stage, 3, seed=2)
    problem = Problem.of(stage, 3)
    for impl in [i for i in impls("cpu", op) if i.supports(problem) is None]:
        run = impl.prepare(stage, problem)
        want = run(*inputs)[0].view(3, 3, 2, 40)
        with_nan = inputs[0].clone()
        with_nan.view(3, 3, 2, 50)[1, 2, 0, 7] = value
        got = run(with_nan, *inputs[1:])[0].view(3, 3, 2, 40)
        assert got[1, :, 0].isnan().all()
        assert torch.equal(got[[0, 2]], want[[0, 2]]) and torch.equal(got[1, :, 1], want[1, :, 1])


@pytest.mark.parametrize(
    ("kind", "scheme"), [(KINDS[0], "w8a8"), (KINDS[1], "float32")], ids=["lstm-w8a8", "gru-float32"]
)
def test_compiled_and_streamed_models_use_zeros(kind, scheme: str, always, monkeypatch: pytest.MonkeyPatch) -> None:
    model, window = with_zeros(Net(kind[2])), torch.randn(2, 6, 70)
    calibration = [torch.randn(4, 6, 70)] if scheme == "w8a8" else None
    sparse = rt.compile(model, (window,), scheme, calibration=calibration)
    assert "memory is computed sparse" in sparse.explain(measure=False)
    assert any("_sparse_" in line.kernel for line in sparse.explain_lines(measure=False))
    live = rt.stream(model, window[:, 0], scheme, calibration=calibration)
    assert "memory is computed sparse" in live.explain(measure=False)
    for time_step in window.unbind(1):
        y = live.step(time_step)
    if scheme == "float32":
        torch.testing.assert_close(sparse(window), model(window).detach(), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(y, model(window)[:, -1].detach(), rtol=1e-5, atol=1e-5)
        return
    monkeypatch.setattr(forms, "MIN_ZEROS", 2.0)
    dense = rt.compile(model, (window,), scheme, calibration=calibration)
    assert not any("_sparse_" in line.kernel for line in dense.explain_lines(measure=False))
    assert torch.equal(sparse(window), dense(window)) and torch.equal(y, dense(window)[:, -1])


def test_a_slower_form_is_not_taken_and_compile_prunes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forms, "time", lambda stage, rows: 1.0)
    model, x = with_zeros(Net(nn.LSTM)), torch.randn(1, 3, 70)
    assert "memory is computed dense, which is not slower" in rt.compile(model, (x,)).explain(measure=False)
    whole = Net(nn.GRU).eval()
    pruned = rt.compile(whole, (x,), sparsity={"memory": rt.BlockSparse((16, 16), 0.8)})
    assert "memory is pruned to" in pruned.explain(measure=False)
    want = Net(nn.GRU).eval()
    want.load_state_dict(whole.state_dict())
    rt.sparsify_(want, {"memory": rt.BlockSparse((16, 16), 0.8)}, swap=False)
    torch.testing.assert_close(pruned(x), want(x).detach(), rtol=1e-5, atol=1e-5)


@kinds
def test_quantized_layers_use_their_zeros(kind, always, monkeypatch: pytest.MonkeyPatch) -> None:
    source = with_zeros(kind[2](70, 72, 2))
    x = torch.randn(4, 3, 70)
    layer = kind[3].from_float(source, rt.W8A8("dynamic"))
    y = layer(x)[0]
    assert f"{kind[0]} is computed sparse" in layer.explain()
    monkeypatch.setattr(forms, "MIN_ZEROS", 2.0)
    other = kind[3].from_float(source, rt.W8A8("dynamic"))
    assert torch.equal(other(x)[0], y) and "sparse" not in other.explain().split("stages")[0].replace(
        "not cpu_sparse", ""
    )


@kinds
@pytest.mark.parametrize("method", ["magnitude", "wanda", "second", "refit"])
def test_sparsify_prunes_the_gates_and_puts_them_back(kind, method: str) -> None:
    model, data = Net(kind[2]).eval(), torch.randn(12, 9, 70)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    want = model(data).detach()
    calibration = None if method == "magnitude" else [data]
    report = rt.sparsify_(model, rt.Unstructured(0.6), calibration=calibration, method=method)
    entries = {e.fqn: e for e in report}
    assert [n for n in entries if n.startswith("memory")] == [
        f"memory.weight_{which}_l{layer}" for layer in range(2) for which in ("ih", "hh")
    ]
    assert all(e.zeros == pytest.approx(0.6, abs=0.01) for e in entries.values())
    assert isinstance(model.memory, kind[2]) and "rt.compile uses" in entries["memory.weight_hh_l1"].reason
    assert 0 < float((model(data) - want).detach().norm() / want.norm()) < 1
    assert rt.restore_(model) == 2
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    rt.sparsify_(model, {"memory": rt.Unstructured(0.6)}, calibration=[data], scheme="w8a8")
    assert isinstance(model.memory, kind[3])
    assert float((model(data) - want).detach().norm() / want.norm()) < 1
    assert rt.restore_(model) == 1 and torch.equal(model(data), want)


def test_zeros_stay_in_training() -> None:
    model, data = Net(nn.GRU).eval(), torch.randn(8, 5, 70)
    rt.sparsify_(model, {"memory": rt.Unstructured(0.7)}, swap=False)
    zeros = {n: p == 0 for n, p in model.named_parameters() if n.startswith("memory.weight")}
    with rt.keep_zeros(model) as masks:
        optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
        for _ in range(3):
            optimizer.zero_grad()
            model(data).square().mean().backward()
            optimizer.step()
    assert masks.keys() == zeros.keys()
    assert all(torch.equal(dict(model.named_parameters())[n] == 0, z) for n, z in zeros.items())


ERRORS = {
    "too few rows": {"calibration": [torch.randn(1, 3, 70)], "method": "second"},
    "no data": {"method": "refit"},
    "a NaN": {"calibration": [torch.full((1, 2, 70), float("nan"))]},
    "a static scheme": {"scheme": rt.W8A8("static")},
}


@pytest.mark.parametrize("what", ERRORS)
def test_errors_leave_the_gates_as_they_were(what: str) -> None:
    model = Net(nn.LSTM).eval()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    with pytest.raises(rt.FormatError):
        rt.sparsify_(model, rt.Unstructured(0.5), **ERRORS[what])
    with torch.no_grad():
        model.memory.weight_hh_l1[3, 4] = float("inf")
    with pytest.raises(rt.FormatError, match=r"memory.weight_hh_l1\[3, 4\]"):
        rt.sparsify_(model, rt.Unstructured(0.5))
    with torch.no_grad():
        model.memory.weight_hh_l1.copy_(before["memory.weight_hh_l1"])
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


def test_rows_of_zeros_and_blocks_that_do_not_divide() -> None:
    model, x = Net(nn.LSTM).eval(), torch.randn(2, 4, 70)
    rt.sparsify_(model, {"memory": rt.BlockSparse((7, 9), 0.9)}, swap=False)
    with torch.no_grad():
        model.memory.weight_hh_l0[5:40] = 0
        model.memory.weight_ih_l0.zero_()
    sparse = rt.compile(model, (x,))
    torch.testing.assert_close(sparse(x), model(x).detach(), rtol=1e-5, atol=1e-5)
