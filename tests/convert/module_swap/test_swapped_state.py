"""The state of a swapped layer: complete, refused as a whole, and never taken for the state of a float layer."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import rtaccel as rt
from rtaccel.nn.stored import Stored
from tests.support.networks.nn_modules import FORMS, Holder, first, same_bits
from tests.support.networks.swapped_models import make, snapshot, unchanged

ALL = pytest.mark.parametrize("name", FORMS)


def test_every_module_of_rt_nn_is_in_the_list() -> None:
    trained = {name for name in rt.nn.__all__ if name.startswith("FakeQuant")}  # tests/convert/test_prepare_qat.py
    assert {name.split("-")[0] for name in FORMS} == set(rt.nn.__all__) - trained - {
        "TreeEnsemble"
    }  # of no torch layer


@ALL
def test_load_of_save_gives_the_same_bits(name: str, tmp_path: Path) -> None:
    form = FORMS[name]
    layer, other, inputs = form.swapped(), form.swapped(1), form.inputs()
    if hasattr(layer, "h_scale"):
        layer.h_scale *= 0.7  # not what every layer starts with
        layer.repack()
    want = layer(*inputs)
    assert not same_bits(other(*inputs), want)
    torch.save(layer.state_dict(), tmp_path / "layer.pt")
    save_file(layer.state_dict(), tmp_path / "layer.safetensors")
    other.load_state_dict(torch.load(tmp_path / "layer.pt", weights_only=True))
    assert same_bits(other(*inputs), want)
    third = form.swapped(1)
    third.load_state_dict(load_file(tmp_path / "layer.safetensors"), assign=True)
    assert same_bits(third(*inputs), want)


@ALL
def test_no_float_layer_takes_the_codes_and_no_swapped_layer_the_weights(name: str) -> None:
    form = FORMS[name]
    plain, layer = form.plain(), form.swapped()
    before = {key: t.clone() for key, t in plain.state_dict().items()}
    plain.load_state_dict(layer.state_dict(), strict=False)
    for key, tensor in plain.state_dict().items():
        assert torch.equal(tensor, before[key]) or "bias" in key, key  # a bias is a float32 bias in both
    inputs = form.inputs()
    want = layer(*inputs)
    layer.load_state_dict(form.plain().state_dict(), strict=False)
    assert same_bits(layer(*inputs), want)
    with pytest.raises(RuntimeError, match="Missing key"):
        layer.load_state_dict(form.plain().state_dict())
    assert same_bits(layer(*inputs), want)


@ALL
def test_weights_of_the_float_layer_are_refused_by_name(name: str) -> None:
    form = FORMS[name]
    layer, inputs = form.swapped(), form.inputs()
    want = layer(*inputs)
    weight = next(key for key, _ in form.plain().named_parameters() if "weight" in key and "." not in key)
    assert not hasattr(layer, weight)
    with pytest.raises(rt.UnsupportedProblem, match=f"{weight} read from a swapped layer"):
        getattr(layer, weight)
    given = {weight: torch.zeros_like(getattr(form.plain(), weight))}
    with pytest.raises(rt.UnsupportedProblem, match=weight):
        torch.func.functional_call(layer, given, inputs)
    with pytest.raises(rt.UnsupportedProblem, match=weight):
        setattr(layer, weight, nn.Parameter(given[weight]))
    assert same_bits(layer(*inputs), want)


@ALL
def test_functional_call_with_another_state_is_honored(name: str) -> None:
    form = FORMS[name]
    layer, other, inputs = form.swapped(), form.swapped(1), form.inputs()
    want, theirs = layer(*inputs), other(*inputs)
    state = {key: t for key, t in other.state_dict().items() if not key.endswith("_extra_state")}
    for _ in range(2):
        assert same_bits(torch.func.functional_call(layer, state, inputs), theirs)
        assert same_bits(layer(*inputs), want)


BROKEN = {
    "truncated": lambda t: t.flatten()[:-1] if t.numel() > 1 else t[None],
    "another dtype": lambda t: t.to(torch.float64),
    "on meta": lambda t: t.to("meta"),
    "sparse": lambda t: t.float().to_sparse() if t.dim() else t[None].float().to_sparse(),
    "no tensor": lambda t: t.tolist(),
}


@ALL
@pytest.mark.parametrize("fault", BROKEN)
@pytest.mark.parametrize("assign", [False, True])
def test_a_state_with_a_fault_changes_nothing(name: str, fault: str, assign: bool) -> None:
    form = FORMS[name]
    layer, inputs = form.swapped(), form.inputs()
    want = layer(*inputs)
    good, own = form.swapped(1).state_dict(), copy.deepcopy(layer.state_dict())
    model = Holder(copy.deepcopy(layer)).eval()
    swaps = Holder(form.plain()).eval()
    before = snapshot(swaps)
    for key in good:
        bad = {**good, key: BROKEN[fault](good[key])}
        with pytest.raises(rt.FormatError):
            layer.load_state_dict(bad, assign=assign)
        assert all(torch.equal(t, own[name]) for name, t in layer.state_dict().items()), key
        whole = {"scale": model.scale.detach() + 1, **{f"layer.{k}": t for k, t in bad.items()}}
        with pytest.raises(rt.FormatError, match="layer"):
            rt.load_quantized_(swaps, whole)
        assert unchanged(swaps, before), key
    assert same_bits(layer(*inputs), want)


@ALL
def test_a_state_is_assigned_as_plain_numbers(name: str) -> None:
    """Tensors with the negative bit, expanded, strided, offset, misaligned; parameters and what requires a gradient."""
    form = FORMS[name]
    layer, inputs = form.swapped(), form.inputs()
    want = layer(*inputs)
    kinds = {
        "negative": lambda t: torch._neg_view(-t) if t.is_floating_point() else t,
        "imaginary": lambda t: torch.complex(torch.zeros_like(t), -t).conj().imag if t.dtype == torch.float32 else t,
        "strided": lambda t: torch.stack([t, t], -1)[..., 0],
        "offset": lambda t: torch.cat([t.flatten()[:1], t.flatten()])[1:].view(t.shape),
        "parameter": lambda t: nn.Parameter(t.clone(), requires_grad=t.is_floating_point()),
        "in a graph": lambda t: t.clone().requires_grad_() * 1 if t.is_floating_point() else t,
    }
    for kind, change in kinds.items():
        for assign in (False, True):
            other = form.swapped(1)
            state = {k: t if k.endswith("_extra_state") else change(t) for k, t in layer.state_dict().items()}
            other.load_state_dict(state, assign=assign)
            assert same_bits(other(*inputs), want), (kind, assign)
            assert not list(other.parameters()) and not any(t.requires_grad for t in first(other(*inputs)))


def test_an_expanded_tensor_is_assigned_as_its_numbers() -> None:
    layer, x = rt.nn.QuantLinear.from_float(nn.Linear(8, 5), "w8a16"), torch.randn(2, 8)
    state = {**layer.state_dict(), "bias": torch.tensor(0.5).expand(5), "weight_scale": torch.ones(1).expand(5)}
    layer.load_state_dict(state, assign=True)
    first_row = layer(x)
    layer.load_state_dict({name: t.clone() for name, t in state.items()})
    assert torch.equal(layer(x), first_row) and layer.bias.is_contiguous()


@ALL
def test_nothing_is_shared_with_the_float_layer(name: str) -> None:
    form = FORMS[name]
    plain = form.plain().eval()
    layer, inputs = form.made(plain), form.inputs()
    want = layer(*inputs)
    memory = {t.untyped_storage().data_ptr() for t in (*plain.parameters(), *plain.buffers())}
    assert not any(t.untyped_storage().data_ptr() in memory for t in layer.buffers())
    with torch.no_grad():
        for p in plain.parameters():
            p.fill_(3.0)
    for layer_ in (layer, copy.deepcopy(layer)):
        assert same_bits(layer_(*inputs), want)


def test_state_of_another_scheme_is_refused_with_both_named() -> None:
    one, other = (rt.nn.QuantLinear.from_float(nn.Linear(32, 4), scheme) for scheme in (rt.W4A16(16), rt.W4A16(32)))
    with pytest.raises(rt.FormatError, match=r"group_size=16.*group_size=32"):
        other.load_state_dict(one.state_dict())


def test_the_old_names_are_no_state() -> None:
    """A state without a description, as of a float layer or by hand, is missing keys, not half a state."""
    layer = rt.nn.QuantLinear.from_float(nn.Linear(8, 4), "w8a16")
    state = layer.state_dict()
    state["weight"] = state.pop("qweight")
    with pytest.raises(RuntimeError, match="qweight"):
        layer.load_state_dict(state)


def swapped_model() -> tuple[nn.Module, Tensor]:
    model, x = make(), torch.randn(4, 24)
    rt.quantize_(model, "w8a8", calibration=[x], force=True)
    return model, x


def test_a_refused_load_of_a_swapped_model_loads_nothing() -> None:
    model, x = swapped_model()
    want = model(x)
    good = swapped_model()[0].state_dict()
    for bad in (
        {**good, "3.weight_scale": -good["3.weight_scale"]},
        {**good, "3.qweight": good["3.qweight"][:-1]},
        {**good, "3._extra_state": good["0._extra_state"]},
    ):
        for assign in (False, True):
            with pytest.raises(rt.FormatError, match="3"):
                model.load_state_dict(bad, assign=assign)
            assert torch.equal(model(x), want)
    mixed = make()
    mixed.append(nn.Linear(5, 2))
    rt.quantize_(mixed, {"0": "w8a8"}, force=True)
    want = mixed(x)
    state = {k: torch.rand_like(t) if t.is_floating_point() else t for k, t in mixed.state_dict().items()}
    with pytest.raises(rt.FormatError, match=r"4\.weight"):
        mixed.load_state_dict({**state, "4.weight": torch.ones(2, 6)})
    assert torch.equal(mixed(x), want)
    copied = copy.deepcopy(mixed)
    with pytest.raises(rt.FormatError, match=r"4\.weight"):
        copied.load_state_dict({**state, "4.weight": torch.ones(2, 6)})
    assert torch.equal(copied(x), want)


def test_a_restored_model_loads_as_any_other() -> None:
    model, _ = swapped_model()
    assert len(model._load_state_dict_pre_hooks) == 1
    rt.quantize_(model, "w8a8")
    assert len(model._load_state_dict_pre_hooks) == 1
    rt.restore_(model)
    assert not model._load_state_dict_pre_hooks


def test_functional_call_of_a_model_with_tensors_that_make_no_layer() -> None:
    model, x = swapped_model()
    want = model(x)
    for given in ({"0.bias": torch.ones(3)}, {"3.qweight": torch.ones(5, 16)}, {"0.weight_scale": torch.zeros(40)}):
        with pytest.raises(rt.FormatError):
            torch.func.functional_call(model, given, (x,))
        assert torch.equal(model(x), want)


def test_state_in_the_hidden_description_is_plain() -> None:
    state = swapped_model()[0].state_dict()
    assert all(type(t) is Tensor for t in state.values())
    assert b'"layer": "QuantLinear"' in bytes(state["0._extra_state"].tolist())


@ALL
def test_moves_and_conversions_keep_the_bits(name: str) -> None:
    form = FORMS[name]
    layer, inputs = form.swapped(), form.inputs()
    want = layer(*inputs)
    for change in (
        lambda m: m.half(),
        lambda m: m.double(),
        lambda m: m.bfloat16(),
        lambda m: m.to("cpu"),
        lambda m: m.train(),
    ):
        assert same_bits(change(layer)(*inputs), want)
        assert isinstance(layer, Stored)
