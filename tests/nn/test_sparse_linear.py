"""SparseLinear: the numbers of the dense layer, files in and out, compilers, bad input; compiled models use their zeros."""

from __future__ import annotations

import copy
import os
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt
import rtaccel._native as native
from rtaccel.core.registry import impls
from rtaccel.core.stage import GraphIO, Problem
from rtaccel.formats import int8
from rtaccel.kernels._core.cpu import build
from rtaccel.kernels.sparse_linear import contract
from rtaccel.plan import sparse as forms
from tests.support.round_trips import WAYS, passed_on

PATTERNS = (rt.Unstructured(0.8), rt.BlockSparse((16, 16), 0.7), rt.BlockSparse((5, 3), 0.7), rt.SemiStructured())
SCHEMES = (rt.Float32(), rt.W8A8("static"), rt.W8A8("dynamic"))


def make(scheme: rt.Float32 | rt.W8A8 = SCHEMES[1], pattern: object = rt.Unstructured(0.8), k: int = 70, n: int = 45):
    calibration = torch.randn(128, k) if scheme == rt.W8A8("static") else None
    layer = nn.Linear(k, n)
    return layer, rt.nn.SparseLinear.from_float(layer, scheme, calibration, sparsity=pattern).eval()


def expected(layer: rt.nn.SparseLinear, x: Tensor) -> Tensor:
    """In float64, on the int8 inputs where there are any."""
    rows = x.double()
    if layer.values.dtype == torch.int8 and layer.input_scale is not None:
        quant = contract.linear.QParams(float(layer.input_scale), int(layer.input_zero_point))
        rows = int8.dequantize(int8.quantize(x, quant), quant).double()
    elif layer.values.dtype == torch.int8:
        q, scale = int8.dynamic(x)
        rows = q.double() * scale.double()
    return rows @ layer.to_dense().double().T + layer.bias.double()


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize("rows", [1, 6, 40])
def test_it_computes_its_dense_weight(scheme: rt.Float32 | rt.W8A8, pattern: object, rows: int) -> None:
    source, layer = make(scheme, pattern)
    x = torch.randn(rows, 70)
    torch.testing.assert_close(layer(x), expected(layer, x).float(), rtol=1e-5, atol=1e-5)
    kept = layer.to_dense() != 0
    assert not layer.to_dense()[~kept].any()
    if scheme == rt.Float32():
        assert torch.equal(layer.to_dense()[kept], source.weight[kept])
    assert layer(x.view(1, rows, 70)).shape == (1, rows, 45)
    assert not layer(x.requires_grad_()).requires_grad


def test_no_fraction_keeps_the_zeros_that_are_there() -> None:
    source = nn.Linear(40, 30)
    with torch.no_grad():
        source.weight *= torch.rand(30, 40) < 0.25
        source.weight[7] = 0
    layer = rt.nn.SparseLinear.from_float(source)
    assert torch.equal(layer.to_dense(), source.weight)
    x = torch.randn(3, 40)
    torch.testing.assert_close(layer(x), source(x).detach())
    assert torch.equal(layer(x)[:, 7], source.bias[7].expand(3))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_a_row_that_is_not_finite_is_nan_and_alone(scheme: rt.Float32 | rt.W8A8, value: float) -> None:
    _, layer = make(scheme)
    x = torch.randn(5, 70)
    want = layer(x)
    x[2, 11] = value
    got = layer(x)
    assert (got[2].isnan() if scheme != rt.Float32() else ~got[2].isfinite()).all()
    others = [0, 1, 3, 4]
    assert torch.equal(got[others], want[others])


@pytest.mark.parametrize("layout", ["window", "blocks"])
def test_sparse_float_kernels_give_nan_for_what_is_not_finite(layout: str) -> None:
    stage = contract.make_stage(90, 70, "float32", layout, 0.1, activation="relu")
    problem = Problem.of(stage, 3)
    for impl in [i for i in impls("cpu", "sparse_linear") if i.supports(problem) is None]:
        for value in (float("nan"), float("inf")):
            x = torch.randn(3, 90)
            x[1, 17] = value
            (y,) = impl.prepare(stage, problem)(x)
            assert y[1].isnan().all() and y[[0, 2]].isfinite().all(), impl.name


def test_dense_and_sparse_forms_give_the_same_bits() -> None:
    for layout in contract.LAYOUTS:
        stage = contract.make_stage(130, 70, "static", layout, 0.2, activation="relu", out="int8")
        dense = contract.dense_stage(stage)
        (x,) = contract.linear.make_inputs(stage, 9, 3)
        results = []
        for op, s in (("sparse_linear", stage), ("linear", dense)):
            problem = Problem.of(s, 9)
            results += [i.prepare(s, problem)(x)[0] for i in impls("cpu", op) if i.supports(problem) is None]
        assert len(results) > 3
        assert all(torch.equal(r, results[0]) for r in results)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_round_trips(pattern: rt.Unstructured, way: str, tmp_path: Path) -> None:
    _, layer = make(pattern=pattern)
    x = torch.randn(4, 70)
    want = layer(x)
    other = rt.nn.SparseLinear(70, 45, scheme=rt.W8A8("static"), sparsity=pattern)
    assert torch.equal(other(x), torch.zeros(4, 45))
    assert torch.equal(passed_on(layer, other, way, tmp_path)(x), want)


def test_a_bad_file_changes_nothing() -> None:
    _, layer = make()
    x = torch.randn(2, 70)
    want, good = layer(x), layer.state_dict()
    broken = {
        "an index too large": {"columns": good["columns"] + 69},
        "a negative index": {"columns": good["columns"] - 70},
        "descending rows": {"row_starts": good["row_starts"].flip(0)},
        "-128": {"values": torch.full_like(good["values"], -128)},
        "a scale of zero": {"weight_scale": good["weight_scale"] * 0},
        "a NaN": {"bias": good["bias"] * float("nan")},
        "another type": {"values": good["values"].float()},
        "a shorter bias": {"bias": good["bias"][:-1]},
    }
    for what, change in broken.items():
        with pytest.raises(rt.FormatError):
            layer.load_state_dict({**good, **change})
        assert torch.equal(layer(x), want), what
    with pytest.raises(RuntimeError, match="Missing"):
        layer.load_state_dict({name: t for name, t in good.items() if name != "columns"})
    assert torch.equal(layer(x), want)


def test_bad_input() -> None:
    source, layer = make()
    for bad in (torch.randn(2, 69), torch.randn(2, 70).double(), torch.randn(()), "x"):
        with pytest.raises(rt.ShapeError):
            layer(bad)
    with pytest.raises(rt.FormatError, match="calibration"):
        rt.nn.SparseLinear.from_float(source, rt.W8A8("static"))
    with pytest.raises(rt.UnsupportedProblem, match="int4 values in 2:4"):
        rt.nn.SparseLinear.from_float(source, rt.W4A8())
    with pytest.raises(rt.UnsupportedProblem, match="w4a16"):
        rt.nn.SparseLinear.from_float(source, rt.W4A16(), sparsity="2:4")
    with pytest.raises(rt.FormatError, match="mask"):
        rt.nn.SparseLinear.from_float(source, mask=torch.ones(3, 3, dtype=torch.bool))
    with pytest.raises(rt.FormatError, match="of 4"):
        rt.nn.SparseLinear.from_float(source, sparsity="2:4", mask=torch.ones(45, 70, dtype=torch.bool))
    with pytest.raises(rt.UnsupportedProblem, match="Conv1d"):
        rt.nn.SparseLinear.from_float(nn.Conv1d(3, 3, 1))  # type: ignore[arg-type]
    with torch.no_grad():
        source.weight[1, 2] = float("nan")
    with pytest.raises(rt.FormatError, match=r"weight\[1, 2\]"):
        rt.nn.SparseLinear.from_float(source)


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_under_compilers(pattern: object) -> None:
    _, layer = make(pattern=pattern)
    x = torch.randn(6, 70)
    want = layer(x)
    torch._dynamo.reset()
    assert torch.equal(torch.compile(layer, fullgraph=True, backend="aot_eager")(x), want)
    model = nn.Sequential(layer, nn.ReLU())
    assert torch.equal(torch.export.export(model, (x,)).module()(x), want.relu())
    assert torch.equal(torch.func.vmap(layer)(x.view(3, 2, 70)), want.view(3, 2, 45))


@pytest.mark.parametrize("form", ["csr", "blocks", "semi"])
def test_opcheck(form: str) -> None:
    pattern = {"csr": PATTERNS[0], "blocks": PATTERNS[1], "semi": PATTERNS[3]}[form]
    for scheme in (rt.Float32(), rt.W8A8("static")):
        _, layer = make(scheme, pattern)
        op = getattr(torch.ops.rtaccel, f"sparse_linear_{form}").default
        torch.library.opcheck(op, (torch.randn(2, 70), *layer._buffers.values(), 45, 70))


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
