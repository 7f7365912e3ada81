"""quantize_ never leaves a model half done: errors, and what it refuses."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import rtaccel as rt
from rtaccel.nn import QuantLinear
from tests.support.networks.swapped_models import MyLinear, make, snapshot, unchanged, without_timing


@pytest.fixture(autouse=True)
def quick(monkeypatch) -> list[tuple[int, ...]]:
    return without_timing(monkeypatch)


# -- errors leave the model alone --------------------------------------------------------------------------------------


def _nan_weight(model: nn.Sequential) -> None:
    with torch.no_grad():
        model[3].weight[2, 1] = float("nan")


ERRORS = {
    "unknown scheme": (lambda m: rt.quantize_(m, "w7a7"), rt.FormatError, "w7a7"),
    "not a scheme": (lambda m: rt.quantize_(m, 8), rt.FormatError, "8"),
    "static without data": (lambda m: rt.quantize_(m, rt.W8A8("static")), rt.FormatError, "0 without calibration"),
    "no batch": (lambda m: rt.quantize_(m, "w8a8", calibration=[]), rt.FormatError, "without a batch"),
    "batches in a dict": (lambda m: rt.quantize_(m, "w8a8", calibration={"x": 1}), rt.ShapeError, "dict"),
    "nan in calibration": (
        lambda m: rt.quantize_(m, "w8a8", calibration=[torch.full((2, 24), float("nan"))]), rt.FormatError, "input of 0"),
    "wrong calibration": (
        lambda m: rt.quantize_(m, "w8a8", calibration=[torch.randn(2, 23)]), rt.FormatError, r"batch 0 with float32\[2, 23\]"),
    "nan in a weight": (lambda m: (_nan_weight(m), rt.quantize_(m, "w8a8")), rt.FormatError, r"3.*weight\[2, 1\]"),
    "filter raises": (lambda m: rt.quantize_(m, "w8a8", lambda module, name: 1 / (name != "3")), ZeroDivisionError, "zero"),
    "training": (lambda m: rt.quantize_(m.train(), "w8a8"), rt.UnsupportedProblem, "eval"),
}  # fmt: skip


@pytest.mark.parametrize("name", ERRORS)
def test_errors_leave_the_model_alone(name: str) -> None:
    call, error, said = ERRORS[name]
    model = make()
    if name == "nan in a weight":
        _nan_weight(model)
    before = snapshot(model)
    with pytest.raises(error, match=said) as caught:
        call(model)
    if isinstance(caught.value, rt.RtaccelError):
        assert caught.value.next_step
    assert unchanged(model, before)


def test_an_error_while_replacing_is_undone() -> None:
    class Stubborn(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def __setattr__(self, name: str, value: object) -> None:
            if name == "b" and isinstance(value, QuantLinear):
                raise RuntimeError("no")
            super().__setattr__(name, value)

    model = Stubborn().eval()
    before = snapshot(model)
    with pytest.raises(RuntimeError, match="no"):
        rt.quantize_(model, "w8a8")
    assert unchanged(model, before)


@pytest.mark.parametrize("model", [nn.Linear(4, 4).eval(), MyLinear(4, 4).eval()], ids=["linear", "subclass"])
def test_a_lone_layer(model: nn.Linear) -> None:
    with pytest.raises(rt.UnsupportedProblem) as caught:
        rt.quantize_(model, "w8a8")
    assert "from_float" in caught.value.next_step


def test_not_a_model() -> None:
    with pytest.raises(rt.UnsupportedProblem, match="function"):
        rt.quantize_(lambda x: x, "w8a8")


def nets() -> nn.Sequential:
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4)).eval()


CHANGES = {
    "quantize_": lambda net: rt.quantize_(net, "w8a8", force=True), "quantize_ to int4": lambda net: rt.quantize_(net, "w4a8"),
    "sparsify_": lambda net: rt.sparsify_(net, rt.Unstructured(0.8)),
}  # fmt: skip


@pytest.mark.parametrize("second", CHANGES)
@pytest.mark.parametrize("first", ["quantize_", "sparsify_"])
def test_what_was_swapped_before_is_said(first: str, second: str) -> None:
    net = nets()
    CHANGES[first](net)
    state = {name: value.clone() for name, value in net.state_dict().items() if isinstance(value, torch.Tensor)}
    with pytest.warns(UserWarning, match=r"swapped before.*0 \(\w+\), 2 \(\w+\); rt\.restore_"):
        report = CHANGES[second](net)
    assert len(report) == 0 and "swapped before" in str(report)
    assert all(torch.equal(net.state_dict()[name], value) for name, value in state.items())
    assert rt.restore_(net) == 2


@pytest.mark.filterwarnings("error::UserWarning")
def test_a_second_call_for_the_other_layers_has_a_note() -> None:
    net = nets()
    rt.quantize_(net, {"0": "w8a8", "2": "float32"}, force=True)
    report = rt.quantize_(net, {"2": "w8a8"}, force=True)
    assert report.swapped == 1 and any("0 (QuantLinear)" in note for note in report.notes)


@pytest.mark.parametrize("layer", [0, 2])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_the_layer_whose_weight_is_no_number_is_named(layer: int, value: float) -> None:
    net = nets()
    for name in ("weight", "bias"):
        bad = copy.deepcopy(net)
        getattr(bad[layer], name).data.view(-1)[3] = value
        with pytest.raises(rt.FormatError, match=rf"quantize_: got {layer}\.{name}\[.*expected finite numbers"):
            rt.quantize_(bad, "w8a8", calibration=[torch.randn(32, 64)])
        assert type(bad[0]) is nn.Linear


def test_a_model_without_linear_layers() -> None:
    report = rt.quantize_(nn.Sequential(nn.ReLU()).eval(), "w8a8", calibration=[torch.randn(2)])
    assert len(report) == 0
    assert "0 swapped, 0 kept" in str(report)
