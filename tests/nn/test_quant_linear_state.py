"""QuantLinear: state that never goes stale, in files and in memory."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import rtaccel as rt
from rtaccel.nn import QuantLinear
from tests.support.networks.int8_layers import KINDS, make, reference, same


@pytest.fixture(params=KINDS)
def layer(request) -> QuantLinear:
    return make(request.param)


# -- state -------------------------------------------------------------------------------------------------------------


def twin(layer: QuantLinear, bias: bool = True) -> QuantLinear:
    return QuantLinear(layer.in_features, layer.out_features, bias, layer.scheme)


def test_an_empty_layer_gives_its_bias() -> None:
    for kind in KINDS:
        layer = QuantLinear(5, 3, scheme=rt.W8A8(kind))
        assert torch.equal(layer(torch.randn(2, 5)), torch.zeros(2, 3))


def test_state_dict_is_plain_tensors(layer: QuantLinear) -> None:
    names = {"qweight", "weight_scale", "bias", "_extra_state"}
    names |= {"input_scale", "input_zero_point"} if layer.input_scale is not None else set()
    state = layer.state_dict()
    assert set(state) == names
    assert all(type(t) is Tensor for t in state.values())
    assert state["qweight"].dtype == torch.int8
    assert list(layer.parameters()) == []


@pytest.mark.parametrize("way", ["state_dict", "assign", "torch.save", "safetensors", "deepcopy", "copy", "pickle"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_round_trip(kind: str, bias: bool, way: str, tmp_path) -> None:
    layer, x = make(kind, bias=bias), torch.randn(3, 24)
    want = layer(x)
    other = twin(layer, bias)
    other(x), other(x[0])  # a plan of the old numbers, which must not survive
    if way in ("state_dict", "assign"):
        other.load_state_dict(layer.state_dict(), assign=way == "assign")
    elif way == "torch.save":
        file = io.BytesIO()
        torch.save(layer.state_dict(), file)
        file.seek(0)
        other.load_state_dict(torch.load(file, weights_only=True))
    elif way == "safetensors":
        save_file(layer.state_dict(), tmp_path / "layer.safetensors")
        other.load_state_dict(load_file(tmp_path / "layer.safetensors"))
    elif way == "pickle":
        other = pickle.loads(pickle.dumps(layer))
    else:
        other = getattr(copy, way)(layer)
    assert same(other(x), want)
    assert same(other(x[0]), want[0])
    other.bias = torch.ones(7) if bias else None
    assert same(layer(x), want)  # nothing is shared that one could corrupt for the other


def test_loading_into_a_model_packs_again() -> None:
    models = [nn.Sequential(make(seed=s), nn.ReLU(), make("dynamic", 7, 4, seed=s)) for s in (1, 2)]
    x = torch.randn(3, 24)
    want, old = models[0](x), models[1](x)
    models[1].load_state_dict(models[0].state_dict())
    assert torch.equal(models[1](x), want)
    assert not torch.equal(want, old)


def _with(**changes):
    def change(state: dict[str, Tensor]) -> dict[str, Tensor]:
        return {**state, **{name: make_tensor(state[name]) for name, make_tensor in changes.items()}}

    return change


BAD_STATE = {
    "weight shape": _with(qweight=lambda t: t[:, :-1]),
    "weight transposed": _with(qweight=lambda t: t.t()),
    "weight dtype": _with(qweight=lambda t: t.float()),
    "weight -128": _with(qweight=lambda t: torch.full_like(t, -128)),
    "scale count": _with(weight_scale=lambda t: t[:-1]),
    "scale dtype": _with(weight_scale=lambda t: t.double()),
    "scale nan": _with(weight_scale=lambda t: t * float("nan")),
    "scale inf": _with(weight_scale=lambda t: t * float("inf")),
    "scale zero": _with(weight_scale=lambda t: t * 0),
    "scale negative": _with(weight_scale=lambda t: -t),
    "bias count": _with(bias=lambda t: torch.cat([t, t])),
    "bias nan": _with(bias=lambda t: t + float("nan")),
    "input scale shape": _with(input_scale=lambda t: t[None]),
    "input scale zero": _with(input_scale=lambda t: t * 0),
    "input scale denormal": _with(input_scale=lambda t: torch.full_like(t, 1e-42)),
    "zero point high": _with(input_zero_point=lambda t: t * 0 + 128),
    "zero point low": _with(input_zero_point=lambda t: t * 0 - 129),
    "zero point dtype": _with(input_zero_point=lambda t: t.float()),
    "not a tensor": _with(bias=lambda t: [0.0] * 7),
}


@pytest.mark.parametrize("name", BAD_STATE)
@pytest.mark.parametrize("assign", [False, True])
def test_bad_state_changes_nothing(name: str, assign: bool) -> None:
    layer, other, x = make(), make(seed=3), torch.randn(3, 24)
    want, before = layer(x), {k: t.clone() for k, t in layer.state_dict().items()}
    with pytest.raises(rt.FormatError) as caught:
        layer.load_state_dict(BAD_STATE[name](other.state_dict()), assign=assign)
    assert caught.value.next_step
    assert all(torch.equal(t, before[k]) for k, t in layer.state_dict().items())
    assert same(layer(x), want)


def test_keys_missing_or_too_many_change_nothing() -> None:
    static, dynamic, x = make("static"), make("dynamic", seed=3), torch.randn(3, 24)
    for target, source in ((static, dynamic), (dynamic, static)):
        want = target(x)
        with pytest.raises(RuntimeError, match="input_scale"):
            target.load_state_dict(source.state_dict())
        assert same(target(x), want)
        target.load_state_dict(
            source.state_dict(), strict=False
        )  # the numbers of a layer are loaded whole or not at all
        assert same(target(x), want)


@pytest.mark.parametrize("convert", ["half", "double", "bfloat16", "float"])
def test_conversion_leaves_the_numbers(layer: QuantLinear, convert: str) -> None:
    x = torch.randn(3, 24)
    want = layer(x)
    model = nn.Sequential(layer)
    getattr(model, convert)()
    assert layer.weight_scale.dtype == torch.float32
    assert same(layer(x), want)
    if convert != "float":
        with pytest.raises(rt.ShapeError, match="cast"):
            layer(getattr(x, convert)())


def test_moving_to_meta_and_loading_there(layer: QuantLinear) -> None:
    x = torch.randn(3, 24)
    want, state = layer(x), copy.deepcopy(layer.state_dict())
    layer.to("meta")
    with pytest.raises(rt.ShapeError, match="meta"):
        layer(x)
    assert layer(x.to("meta")).shape == (3, 7)
    layer.load_state_dict(state, assign=True)
    assert same(layer(x), want)
    with torch.device("meta"):
        other = twin(layer)
    other.load_state_dict(state, assign=True)
    assert same(other(x), want)


def test_replaced_buffers_are_seen(layer: QuantLinear) -> None:
    x = torch.randn(3, 24)
    old = layer(x)
    doubled = {"weight_scale": layer.weight_scale * 2, "bias": layer.bias * 2}
    assert torch.allclose(torch.func.functional_call(layer, doubled, x), old * 2, rtol=1e-5)
    assert same(layer(x), old)
    layer.weight_scale = doubled["weight_scale"]
    layer.bias = doubled["bias"]
    assert torch.allclose(layer(x), old * 2, rtol=1e-5)
    layer.bias = torch.tensor([float("nan")] * 7)
    with pytest.raises(rt.FormatError, match="bias"):
        layer(x)


def test_repack_sees_a_change_in_place(layer: QuantLinear) -> None:
    x = torch.randn(3, 24)
    old = layer(x)
    layer.bias.fill_(float("nan"))
    with pytest.raises(rt.FormatError):
        layer.repack()
    assert same(layer(x), old)  # the old plan still stands
    layer.bias.zero_()
    layer.repack()
    assert same(layer(x), reference(layer, x))
    assert not torch.equal(layer(x), old)


def test_explain_and_repr(layer: QuantLinear) -> None:
    text = layer.explain()
    assert "quantize" in text
    assert "linear" in text
    assert f"scheme=w8a8({layer.scheme.activation})" in repr(layer)


def test_the_package_stays_lazy() -> None:
    import subprocess
    import sys

    code = "import sys, rtaccel; assert 'torch' not in sys.modules and 'rtaccel.nn' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
