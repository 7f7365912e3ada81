"""SparseLinear with int4 values in 2:4: the numbers of the dense int4 layer, files in and out, compilers, bad input."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt
from rtaccel.formats import int4, int8, masks
from rtaccel.kernels.sparse_linear import contract
from tests.support.round_trips import WAYS, passed_on

SCHEMES = (rt.W4A8(32, "static"), rt.W4A8(48, "dynamic"))


def make(scheme: rt.W4A8 = SCHEMES[0], k: int = 70, n: int = 45) -> tuple[nn.Linear, rt.nn.SparseLinear]:
    calibration = torch.randn(128, k) if scheme.activation == "static" else None
    layer = nn.Linear(k, n)
    return layer, rt.nn.SparseLinear.from_float(layer, scheme, calibration, sparsity="2:4").eval()


def expected(layer: rt.nn.SparseLinear, x: Tensor) -> Tensor:
    """In float64, of the int8 inputs."""
    if layer.input_scale is not None and layer.input_zero_point is not None:
        quant = contract.linear.QParams(float(layer.input_scale), int(layer.input_zero_point))
        rows = int8.dequantize(int8.quantize(x, quant), quant).double()
    else:
        q, scale = int8.dynamic(x)
        rows = q.double() * scale.double()
    assert layer.bias is not None
    return rows @ layer.to_dense().double().T + layer.bias.double()


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize("rows", [1, 6])
def test_it_computes_its_dense_weight(scheme: rt.W4A8, rows: int) -> None:
    source, layer = make(scheme)
    x = torch.randn(rows, 70)
    torch.testing.assert_close(layer(x), expected(layer, x).float(), rtol=1e-4, atol=1e-4)
    kept = masks.keep(source.weight.detach().abs(), rt.SemiStructured())
    assert not layer.to_dense()[~kept].any()
    assert 34 / 70 <= layer.sparsity_reached < 0.75  # the last two inputs are no whole four
    assert layer(x.view(1, rows, 70)).shape == (1, rows, 45)
    assert "computed dense" in layer.explain() or "computed sparse" in layer.explain()


def test_values_are_those_of_the_dense_layer_that_was_pruned_first() -> None:
    """And take a quarter of a byte each, and their places another."""
    source, layer = make(k=64)
    pruned = copy.deepcopy(source)
    with torch.no_grad():
        pruned.weight *= masks.keep(source.weight.abs(), rt.SemiStructured())
    packed, scale = int4.quantize_weight(pruned.weight, 32)
    assert torch.equal(layer.to_dense(), int4.dequantize(packed, scale, 64, 32).float())
    assert layer.values.numel() == 45 * 64 // 4
    assert layer.state_dict()["positions"].numel() == 45 * 64 // 8


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_round_trips(scheme: rt.W4A8, way: str, tmp_path: Path) -> None:
    _, layer = make(scheme)
    x = torch.randn(4, 70)
    want = layer(x)
    other = rt.nn.SparseLinear(70, 45, scheme=scheme, sparsity="2:4")
    assert torch.equal(other(x), torch.zeros(4, 45))
    assert torch.equal(passed_on(layer, other, way, tmp_path)(x), want)


def test_a_bad_file_changes_nothing() -> None:
    _, layer = make()
    x = torch.randn(2, 70)
    want, good = layer(x), layer.state_dict()
    broken = {
        "places out of range": {"positions": torch.full_like(good["positions"], 255)},
        "fewer places": {"positions": good["positions"][:, :-1]},
        "int8 values": {"values": good["values"].to(torch.int8)},
        "a narrower weight": {"values": good["values"][:, :-1]},
        "fewer groups": {"group_scale": good["group_scale"][:, :-1]},
        "a scale of zero": {"group_scale": good["group_scale"] * 0},
        "a scale that is no bfloat16": {"group_scale": good["group_scale"] * 1.0001},
        "a NaN": {"bias": good["bias"] * float("nan")},
    }
    for what, change in broken.items():
        with pytest.raises(rt.FormatError):
            layer.load_state_dict({**good, **change})
        assert torch.equal(layer(x), want), what
    with pytest.raises(RuntimeError, match="group_scale"):
        layer.load_state_dict({name: t for name, t in good.items() if name != "group_scale"})
    assert torch.equal(layer(x), want)


def test_bad_input() -> None:
    source, layer = make()
    for bad in (torch.randn(2, 69), torch.randn(2, 70).double(), torch.randn(())):
        with pytest.raises(rt.ShapeError):
            layer(bad)
    x = torch.randn(3, 70)
    want = layer(x)
    x[1, 7] = float("inf")
    got = layer(x)
    assert got[1].isnan().all()
    assert torch.equal(got[[0, 2]], want[[0, 2]])
    with pytest.raises(rt.FormatError, match="calibration"):
        rt.nn.SparseLinear.from_float(source, rt.W4A8(activation="static"), sparsity="2:4")
    with pytest.raises(rt.FormatError, match="of 4"):
        rt.nn.SparseLinear.from_float(source, rt.W4A8(), sparsity="2:4", mask=torch.ones(45, 70, dtype=torch.bool))
    for pattern in (rt.Unstructured(0.8), rt.BlockSparse((16, 16), 0.8)):
        with pytest.raises(rt.UnsupportedProblem, match="int4 values in 2:4"):
            rt.nn.SparseLinear(64, 32, scheme=rt.W4A8(), sparsity=pattern)


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_under_compilers(scheme: rt.W4A8) -> None:
    _, layer = make(scheme)
    x = torch.randn(6, 70)
    want = layer(x)
    torch._dynamo.reset()
    assert torch.equal(torch.compile(layer, fullgraph=True, backend="aot_eager")(x), want)
    model = nn.Sequential(layer, nn.ReLU())
    assert torch.equal(torch.export.export(model, (x,)).module()(x), want.relu())
    op = torch.ops.rtaccel.sparse_linear_semi_int4.default
    torch.library.opcheck(op, (x, *layer._buffers.values(), 45, 70, scheme.group_size))
    fast = rt.compile(nn.Sequential(layer, nn.ReLU(), nn.Linear(45, 3)).eval(), (x,))
    assert "torch" not in {line.kernel for line in fast.explain_lines(measure=False)}
    assert fast(x).shape == (6, 3)


def test_sparsify_swaps_it_in() -> None:
    model, x = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 8)).eval(), torch.randn(4, 64)
    rt.sparsify_(model, "2:4", scheme=rt.W4A8(), calibration=[torch.randn(256, 64)])
    assert isinstance(model[0], rt.nn.SparseLinear)
    assert model[0].scheme == rt.W4A8(activation="static")
    assert model(x).shape == (4, 8)
    assert "w4a8" in str(model[0].scheme)
