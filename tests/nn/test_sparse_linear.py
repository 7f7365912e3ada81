"""SparseLinear: the numbers of the dense layer, files in and out, compilers, bad input; compiled models use their zeros."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt
from rtaccel.core.registry import impls
from rtaccel.core.stage import Problem
from rtaccel.formats import int8
from rtaccel.kernels.sparse_linear import contract
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
