"""SparseLinear within compiled models and streams: its zeros are used where that is faster; the bits are the layer's."""

from __future__ import annotations

import copy
import os

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt
import rtaccel._native as native
from rtaccel.core.registry import impls
from rtaccel.core.stage import GraphIO, Problem
from rtaccel.kernels._core.cpu import build
from rtaccel.kernels.sparse_linear import contract
from rtaccel.plan import sparse as forms
from tests.nn.test_sparse_linear import SCHEMES, make


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_compiled_models_take_sparse_layers(scheme: rt.Float32 | rt.W8A8) -> None:
    _, layer = make(scheme)
    model = nn.Sequential(layer, nn.ReLU(), nn.Linear(45, 3)).eval()
    x = torch.randn(4, 70)
    fast = rt.compile(model, (x,))
    torch.testing.assert_close(fast(x), model(x).detach(), rtol=1e-5, atol=1e-5)
    assert "torch" not in {line.kernel for line in fast.explain_lines(measure=False)}


def big(density: float = 0.04) -> nn.Sequential:
    model = nn.Sequential(nn.Linear(600, 512), nn.ReLU(), nn.Linear(512, 8)).eval()
    with torch.no_grad():
        model[0].weight *= torch.rand(512, 600) < density
    return model


native_only = pytest.mark.skipif(native.isa() == "portable", reason="sparse kernels win with permutations in registers")


@native_only
@pytest.mark.parametrize("scheme", ["float32", "w8a8"])
def test_compile_uses_zeros_and_gives_the_same(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = big(), torch.randn(3, 600)
    calibration = [torch.randn(64, 600)] if scheme == "w8a8" else None
    fast = rt.compile(model, (x,), scheme, calibration=calibration)
    text = fast.explain(measure=False)
    assert "0 is computed sparse" in text and "dense " in text and " us" in text
    assert any(line.kernel.startswith("cpu_window") for line in fast.explain_lines(measure=False))
    monkeypatch.setattr(forms, "MIN_ZEROS", 2.0)
    dense = rt.compile(model, (x,), scheme, calibration=calibration)
    assert not any(line.kernel.startswith("cpu_window") for line in dense.explain_lines(measure=False))
    if scheme == "w8a8":
        assert torch.equal(fast(x), dense(x))
    else:
        torch.testing.assert_close(fast(x), dense(x), rtol=1e-5, atol=1e-5)
    assert fast.weight_bytes < dense.weight_bytes / 3
    out = torch.empty(3, 8)
    fast.bind(x, out=out)()
    assert torch.equal(out, fast(x))


def test_a_dense_weight_stays_dense(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = big(0.9), torch.randn(1, 600)
    assert "sparse" not in rt.compile(model, (x,), "w8a8").explain(measure=False).replace("not cpu_", "")
    monkeypatch.setattr(forms, "_time", lambda stage, rows: 2.0 if stage.op == "sparse_linear" else 1.0)
    slower = rt.compile(big(), (x,), "w8a8")
    assert {line.kernel.split("_")[1] for line in slower.explain_lines(measure=False)} & {"window", "blocks"} == set()
    assert "is computed dense, which is not slower" in slower.explain(measure=False)


def test_compile_prunes_to_a_pattern() -> None:
    model, x = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 8)).eval(), torch.randn(2, 64)
    before = copy.deepcopy(model.state_dict())
    fast = rt.compile(model, (x,), sparsity={"0": rt.Unstructured(0.75), "2": "2:4"})
    want = copy.deepcopy(model)
    with torch.no_grad():
        for layer, pattern in ((want[0], rt.Unstructured(0.75)), (want[2], rt.SemiStructured())):
            layer.weight *= rt.nn.SparseLinear.from_float(layer, sparsity=pattern).to_dense() != 0
    torch.testing.assert_close(fast(x), want(x).detach(), rtol=1e-5, atol=1e-5)
    assert "0 is pruned to 75.0% zeros" in fast.explain(measure=False)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    with pytest.raises(rt.FormatError, match="sparsity"):
        rt.compile(model, (x,), sparsity="nine")


@pytest.mark.parametrize("scheme", ["float32", "w8a8"])
def test_sparse_where_it_is_asked_for(scheme: str) -> None:
    """A layer that is too small to be looked at, and one with few zeros; by name, too."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 5)).eval()
    with torch.no_grad():
        model[0].weight[:, ::3] = 0
    x, calibration = torch.randn(3, 16), [torch.randn(64, 16)] if scheme == "w8a8" else None
    dense = rt.compile(model, x, scheme, calibration=calibration)
    fast = rt.compile(model, x, scheme, calibration=calibration, sparsity=rt.Unstructured(always=True))
    first = rt.compile(model, x, scheme, calibration=calibration, sparsity={"0": rt.Unstructured(always=True)})

    def sparse(compiled: rt.CompiledModel) -> int:
        return sum("sparse_linear" in line.what for line in compiled.explain_lines(measure=False))

    assert (sparse(dense), sparse(fast), sparse(first)) == (0, 2, 1)
    assert "as always=True asks" in fast.explain(measure=False)
    tolerance = {"rtol": 0.0, "atol": 0.0} if scheme == "w8a8" else {}
    torch.testing.assert_close(fast(x), dense(x), **tolerance)
    with pytest.raises(rt.FormatError, match="always="):
        rt.Unstructured(always=1)  # type: ignore[arg-type]


@native_only
def test_a_state_dict_of_a_sparse_plan() -> None:
    model, x = big(), torch.randn(2, 600)
    fast = rt.compile(model, (x,), "w8a8", calibration=[torch.randn(64, 600)])
    want, good = fast(x), copy.deepcopy(fast.state_dict())
    name = next(n for n in good if n.endswith("columns"))
    with pytest.raises(rt.FormatError, match="columns"):
        fast.load_state_dict({**good, name: good[name] + 599})
    assert torch.equal(fast(x), want)
    weight = name.replace("columns", "weight")
    fast.load_state_dict({**good, weight: -good[weight]})
    assert not torch.equal(fast(x), want)
    fast.load_state_dict(good)
    assert torch.equal(fast(x), want)


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core")
@pytest.mark.parametrize("layout", contract.LAYOUTS)
def test_threads_give_the_same_bits(layout: str) -> None:
    stage = contract.make_stage(512, 700, "static", layout, 0.1, out="int8")
    (x,) = contract.linear.make_inputs(stage, 33, 5)
    problem = Problem.of(stage, 33)
    name = next(i.name for i in impls("cpu", "sparse_linear") if i.supports(problem) is None)
    ports = [GraphIO.matrix(stage.inputs[0])], [GraphIO.matrix(stage.outputs[0])]
    results = [build([(stage, name)], *ports, threads=threads).call((x,)) for threads in (1, 2)]
    assert torch.equal(*results)


@native_only
@pytest.mark.parametrize("scheme", ["float32", "w8a8"])
def test_pointwise_convolutions_and_attention_projections(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.point = nn.Conv2d(3, 96, 3, padding=1), nn.Conv2d(96, 128, 1)
            self.attention = nn.MultiheadAttention(128, 4, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            y = torch.relu(self.point(torch.relu(self.first(x)))).flatten(2).transpose(1, 2)
            return self.attention(y, y, y, need_weights=False)[0]

    model, x = Net().eval(), torch.randn(2, 3, 5, 6)
    with torch.no_grad():
        for weight in (model.point.weight, model.attention.in_proj_weight, model.attention.out_proj.weight):
            weight *= torch.rand_like(weight) < 0.05
    calibration = [torch.randn(16, 3, 5, 6)] if scheme == "w8a8" else None
    # Sparse wherever it could be, whatever the noise of this machine says.
    monkeypatch.setattr(forms, "_time", lambda stage, rows: 1.0 if stage.op == "sparse_linear" else 2.0)
    sparse = rt.compile(model, (x,), scheme, calibration=calibration)
    assert [line.what.split("(")[0] for line in sparse.explain_lines(measure=False)].count("sparse_linear") == 3
    monkeypatch.setattr(forms, "MIN_ZEROS", 2.0)
    dense = rt.compile(model, (x,), scheme, calibration=calibration)
    if scheme == "w8a8":
        assert torch.equal(sparse(x), dense(x))
    else:
        torch.testing.assert_close(sparse(x), dense(x), rtol=1e-5, atol=1e-5)
    fewer = rt.compile(Net().eval(), (x,), scheme, sparsity={"point": rt.Unstructured(0.9)}, calibration=calibration)
    assert "point is pruned to 90.0% zeros" in fewer.explain(measure=False)


def test_streams_use_zeros(monkeypatch: pytest.MonkeyPatch) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.memory, self.head = nn.GRU(8, 64, batch_first=True), nn.Linear(64, 96)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.memory(x)[0])

    model, window = Net().eval(), torch.randn(1, 12, 8)
    with torch.no_grad():
        model.head.weight *= torch.rand(96, 64) < 0.1
    monkeypatch.setattr(forms, "_time", lambda stage, rows: 1.0 if stage.op == "sparse_linear" else 2.0)
    live = rt.stream(model, window[:, 0])
    assert "head is computed sparse" in live.explain(measure=False)
    for time_step in window.unbind(1):
        y = live.step(time_step)
    torch.testing.assert_close(y, model(window)[:, -1].detach(), rtol=1e-4, atol=1e-4)
