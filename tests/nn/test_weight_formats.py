"""bfloat16, W8A16, W4A16 and W4A8 as a user meets them: schemes, drop-in layers, operators, swap and compile."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

import rtaccel as rt
from rtaccel.convert.module_swap import benchmark
from rtaccel.core.registry import impls
from rtaccel.core.scheme import parse_scheme
from rtaccel.core.stage import Problem
from rtaccel.formats import int4
from rtaccel.kernels.linear import contract, contract_weights
from rtaccel.nn import QuantLinear
from rtaccel.nn.ops import OPERATORS
from rtaccel.nn.params.formats import FORMATS

SCHEMES = {
    "bfloat16": (rt.BFloat16(), 0.01),
    "w8a16": (rt.W8A16(), 0.01),
    "w4a16": (rt.W4A16(), 0.068),
    "w4a16-64": (rt.W4A16(group_size=64), 0.071),
    "w4a8-static": (rt.W4A8(activation="static"), 0.068),
    "w4a8-dynamic": (rt.W4A8(activation="dynamic"), 0.068),
    "w4a8-16": (rt.W4A8(group_size=16, activation="dynamic"), 0.062),
}
ANY = pytest.mark.parametrize("name", SCHEMES)


def needs_data(scheme: rt.W4A8 | object) -> bool:
    return getattr(scheme, "activation", None) == "static"


def make(name: str, k: int = 45, n: int = 7, bias: bool = True, seed: int = 0) -> QuantLinear:
    torch.manual_seed(seed)
    scheme = SCHEMES[name][0]
    data = torch.randn(256, k) if needs_data(scheme) else None
    return QuantLinear.from_float(nn.Linear(k, n, bias=bias), scheme, data)


def rms(a: Tensor, b: Tensor) -> float:
    a, b = a.detach(), b.detach()
    return float((a.double() - b.double()).square().mean().sqrt() / b.double().square().mean().sqrt())


# -- numbers -----------------------------------------------------------------------------------------------------------


@ANY
def test_error_on_default_initialised_layers(name: str) -> None:
    """Of the product alone: a bias is exact, and would only make the error look smaller."""
    scheme, limit = SCHEMES[name]
    torch.manual_seed(1)
    module, x = nn.Linear(1024, 256, bias=False), torch.randn(64, 1024)
    layer = QuantLinear.from_float(module, scheme, torch.randn(512, 1024) if needs_data(scheme) else None)
    found = rms(layer(x), module(x))
    assert limit / 100 < found < limit


@ANY
@pytest.mark.parametrize(("k", "n"), [(1, 1), (3, 5), (17, 31), (33, 16), (130, 33), (64, 129)])
def test_is_the_contract(name: str, k: int, n: int) -> None:
    layer = make(name, k, n, seed=k)
    stages = layer._params().group(1).stages
    for rows in (0, 1, 2, 7, 40):
        x = torch.randn(rows, k)
        inner = (x,)
        if len(stages) == 2:
            from rtaccel.kernels.quantize import contract as quantize

            inner = quantize.reference(stages[0], x)
        (want,) = contract.reference(stages[-1], *inner)
        limit = torch.as_tensor(contract.tolerance(stages[-1], *inner).atol)
        assert ((layer(x).double() - want.double()).abs() <= limit).all()
    assert torch.equal(layer(x[:6].view(2, 3, k)), layer(x[:6]).view(2, 3, n))


@pytest.mark.parametrize("kind", ["w8a16", "w4a16"])
def test_native_16_bit_activations_are_16_bit(kind: str) -> None:
    """Tighter than the contract, which lets a kernel round to bfloat16: half a step of max |x| / 32639 and float sums."""
    for rows, n, k in ((1, 40, 200), (5, 33, 131), (9, 64, 320)):
        stage = contract_weights.make_stage(k, n, kind, seed=k)
        x = torch.randn(rows, k) * torch.logspace(-3, 3, rows)[:, None]
        low = contract.lower(stage)
        weight = contract_weights.dense_weight(stage, low)
        scale = low["multiplier"].double()
        (want,) = contract.reference(stage, x)
        bound = (x.abs().amax(1, keepdim=True).double() / 65_278) * weight.abs().sum(1) * scale
        bound += (
            8 * torch.finfo(torch.float32).eps * ((x.abs().double() @ weight.abs().T) * scale + low["offset"].abs())
        )
        problem = Problem.of(stage, rows)
        tried = [impl for impl in impls("cpu", "linear") if impl.supports(problem) is None]
        assert tried
        for impl in tried:
            (y,) = impl.prepare(stage, problem)(x)
            assert ((y.double() - want.double()).abs() <= bound).all(), impl.name


def test_every_instruction_set_gives_the_same_bits() -> None:
    """int32 sums are exact, and groups are added in one order with one rounding each."""
    for kind in ("w8a16", "w4a16", "w4a8-static", "w4a8-dynamic"):
        stage = contract_weights.make_stage(203, 70, kind, "relu", seed=5)
        inputs = contract.make_inputs(stage, 11, seed=1)
        problem = Problem.of(stage, 11)
        results = [i.prepare(stage, problem)(*inputs)[0] for i in impls("cpu", "linear") if i.supports(problem) is None]
        assert results
        assert all(torch.equal(y, results[0]) for y in results), kind


@ANY
def test_rows_with_nan(name: str) -> None:
    layer, x = make(name), torch.randn(6, 45)
    want = layer(x)
    x[2, 3], x[4, 0] = float("nan"), float("inf")
    y = layer(x)
    assert y[2].isnan().all()
    assert not torch.isfinite(y[4]).any()
    assert torch.equal(y[[0, 1, 3, 5]], want[[0, 1, 3, 5]])


@ANY
def test_rows_of_zeros_and_of_extremes(name: str) -> None:
    layer = make(name, bias=False)
    assert (layer(torch.zeros(3, 45)) == 0).all()
    if not needs_data(layer.scheme):
        x = torch.randn(2, 45)
        big, small = layer(x * 2.0**60), layer(x * 2.0**-60)
        torch.testing.assert_close(big * 2.0**-60, layer(x), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(small * 2.0**60, layer(x), rtol=1e-5, atol=1e-6)


# -- state -------------------------------------------------------------------------------------------------------------


@ANY
def test_state_dict_and_safetensors(name: str) -> None:
    layer, x = make(name), torch.randn(3, 45)
    blank = QuantLinear(45, 7, scheme=layer.scheme)
    assert not torch.equal(blank(x), layer(x))
    blank.load_state_dict(layer.state_dict())
    assert torch.equal(blank(x), layer(x))
    stored = load(save(layer.state_dict()))
    assert all(type(t) is Tensor for t in stored.values())
    again = QuantLinear(45, 7, scheme=layer.scheme)
    again.load_state_dict(stored)
    assert torch.equal(again(x), layer(x))
    buffer = io.BytesIO()
    torch.save(layer.state_dict(), buffer)
    buffer.seek(0)
    again.load_state_dict(torch.load(buffer, weights_only=True))
    assert torch.equal(copy.deepcopy(again)(x), layer(x))


@ANY
def test_a_state_of_another_scheme_is_refused_whole(name: str) -> None:
    layer, x = make(name), torch.randn(3, 45)
    want = layer(x)
    for other in SCHEMES:
        state = make(other).state_dict()
        if {k: (t.shape, t.dtype) for k, t in state.items()} == {
            k: (t.shape, t.dtype) for k, t in layer.state_dict().items()
        }:
            continue
        with pytest.raises((rt.FormatError, RuntimeError)):
            layer.load_state_dict(state)
        assert torch.equal(layer(x), want)


def test_scales_that_are_none_are_refused() -> None:
    layer = make("w4a8-dynamic")
    state = layer.state_dict()
    for value in (float("nan"), 0.0, 1.001):
        bad = {**state, "group_scale": torch.full_like(state["group_scale"], value)}
        with pytest.raises(rt.FormatError, match="group_scale"):
            layer.load_state_dict(bad)


@ANY
def test_explain_and_sizes(name: str) -> None:
    layer = make(name, 512, 64)
    assert parse_scheme(name.split("-")[0]).name in repr(layer)
    assert "linear" in layer.explain()
    weight = layer.qweight.numel() * layer.qweight.element_size()
    assert weight == 512 * 64 * {"bfloat16": 2, "w8a16": 1}.get(name, 0.5)


# -- bad input ---------------------------------------------------------------------------------------------------------


@ANY
def test_wrong_input(name: str) -> None:
    layer = make(name)
    for x in (torch.randn(2, 44), torch.randn(2, 46), torch.tensor(1.0), torch.randn(2, 45).double(), [1.0]):
        with pytest.raises(rt.ShapeError):
            layer(x)


def test_bad_schemes() -> None:
    with pytest.raises(rt.FormatError, match="activation"):
        rt.W4A8(activation="per tensor")
    with pytest.raises(rt.FormatError, match="observer"):
        rt.W4A8(observer="best")
    with pytest.raises(rt.FormatError, match="without calibration"):
        QuantLinear.from_float(nn.Linear(4, 4), rt.W4A8(activation="static"))
    for name in ("bfloat16", "w8a16", "w4a16", "w4a8"):
        assert parse_scheme(name.upper()).name == name
    assert rt.W4A8(64).group_size == 64
    with pytest.raises(rt.UnsupportedProblem):
        QuantLinear.from_float(nn.Linear(65_537, 1), rt.W4A8())


def test_a_stage_that_does_not_fit_its_groups() -> None:
    stage = contract_weights.make_stage(64, 4, "w4a8-dynamic")
    stage = type(stage)("linear", "x", stage.inputs, stage.outputs, stage.tensors, {**stage.attrs, "group_size": 16})
    with pytest.raises(rt.FormatError, match="groups of 16"):
        contract.lower(stage)


# -- operators ---------------------------------------------------------------------------------------------------------


@ANY
def test_operator(name: str) -> None:
    layer, x = make(name), torch.randn(3, 45)
    numbers = FORMATS[type(layer.scheme)]
    args = (*layer._buffers.values(), *layer._options(numbers).values())
    op = OPERATORS[numbers]
    assert torch.equal(op(x, *args), layer(x))
    assert torch.equal(op(x, *args, "relu"), layer(x).relu())
    torch.library.opcheck(op, (x, *args))
    assert torch.equal(torch.func.vmap(layer)(x), layer(x))
    exported = torch.export.export(nn.Sequential(layer), (x,)).module()
    assert torch.equal(exported(x), layer(x))


# -- whole models ------------------------------------------------------------------------------------------------------


def model(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(70, 96), nn.ReLU(), nn.Linear(96, 50), nn.Tanh(), nn.Linear(50, 40), nn.ELU(), nn.Linear(40, 9)
    ).eval()


@ANY
def test_compile(name: str) -> None:
    scheme, limit = SCHEMES[name]
    net, x = model(), torch.randn(64, 70)
    fast = rt.compile(net, (x[:1],), scheme, calibration=[x] if needs_data(scheme) else None)
    error = rms(fast(x), net(x))
    assert 0 < error < 2.5 * limit
    stages = fast._program.stages
    for stage in stages:
        if stage.op == "linear":
            assert contract_weights.storage_format(stage) == scheme.name
    assert len(fast._executor.steps) == 1
    other = rt.compile(model(5), (x[:1],), scheme, calibration=[x] if needs_data(scheme) else None, backend="portable")
    other.load_state_dict(fast.state_dict())
    assert rms(other(x), fast(x)) < 0.01


def test_mixed_schemes_in_one_model() -> None:
    net, x = model(), torch.randn(32, 70)
    fast = rt.compile(net, (x[:1],), {"0": "w4a8", "2": "w8a16", "4": "w8a8", "6": "bfloat16"}, calibration=[x])
    kinds = [contract_weights.storage_format(s) for s in fast._program.stages if s.op == "linear"]
    assert kinds == ["w4a8", "w8a16", None, "bfloat16"]
    assert 0 < rms(fast(x), net(x)) < 0.1


@ANY
def test_swap_restore_and_compile_what_was_swapped(name: str, monkeypatch) -> None:
    monkeypatch.setattr(benchmark, "compare", lambda before, after, x: (2.0, 1.0))
    scheme, limit = SCHEMES[name]
    net, x = model(), torch.randn(64, 70)
    want = net(x)
    report = rt.quantize_(net, scheme, calibration=[x] if needs_data(scheme) else None)
    assert report.swapped == 4
    assert all(e.activation == getattr(scheme, "activation", None) for e in report)
    assert all(0 < e.error < 1.5 * limit for e in report)
    assert report.bytes_after < report.bytes_before * (0.8 if name == "bfloat16" else 0.6)
    swapped = net(x)
    assert 0 < rms(swapped, want) < 2.5 * limit
    fast = rt.compile(net, (x[:1],), "w8a8", calibration=[x])  # layers that are quantized already stay what they are
    torch.testing.assert_close(fast(x), swapped, rtol=1e-4, atol=1e-5)
    assert rt.restore_(net) == 4
    assert torch.equal(net(x), want)


def test_group_scales_of_a_compiled_model_are_checked() -> None:
    net, x = model(), torch.randn(4, 70)
    fast = rt.compile(net, (x,), rt.W4A16())
    state = fast.state_dict()
    name = next(n for n in state if n.endswith("group_scale"))
    assert (state[name] < 0).any()
    with pytest.raises(rt.FormatError, match="bfloat16"):
        fast.load_state_dict({**state, name: state[name] * 1.001})
    q = int4.unpack(state[name.replace("group_scale", "weight")], 70)
    assert int(q.min()) == -8
