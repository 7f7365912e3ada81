"""load_quantized_: a float model and a state alone give the swapped model again, or nothing is changed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import rtaccel as rt
from tests.convert.module_swap.test_swapped_state import ALL
from tests.support.networks.nn_modules import FORMS, Holder, same_bits
from tests.support.networks.swapped_models import make, snapshot, unchanged


@ALL
@pytest.mark.parametrize("way", ["torch.save", "safetensors"])
def test_load_quantized_needs_the_float_model_and_the_state_alone(
    name: str, way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    form = FORMS[name]
    model, inputs = Holder(form.swapped()).eval(), form.inputs()
    want = model(*inputs)
    if way == "torch.save":
        torch.save(model.state_dict(), tmp_path / "model.pt")
        state = torch.load(tmp_path / "model.pt", weights_only=True)
    else:
        save_file(model.state_dict(), tmp_path / "model.safetensors")
        state = load_file(tmp_path / "model.safetensors")
    monkeypatch.setattr("rtaccel.convert.module_swap.benchmark.compare", None)  # nothing is timed
    other = Holder(form.plain()).eval()
    report = rt.load_quantized_(other, state)
    assert report.swapped == 1 and report.entries[0].fqn == "layer"
    assert type(other.layer) is type(model.layer) and other.layer.description() == model.layer.description()
    assert same_bits(other(*inputs), want)
    state["scale"].fill_(7.0), state["layer._extra_state"].zero_()
    for key, tensor in state.items():
        if "input_zero_point" in key:
            tensor.fill_(3)
    assert same_bits(other(*inputs), want)  # nothing of the state is shared
    again = rt.load_quantized_(other, model.state_dict())  # into a model that is swapped already
    assert again.swapped == 1 and same_bits(other(*inputs), want)


class Shared(nn.Module):
    """One layer under two names, a buffer, and a kept layer."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(6, 6)
        self.b, self.kept = self.a, nn.Linear(6, 3)
        self.register_buffer("shift", torch.randn(6))

    def forward(self, x: Tensor) -> Tensor:
        return self.kept(self.b(self.a(x) + self.shift).relu())


def test_load_quantized_with_shared_layers_buffers_and_kept_ones() -> None:
    model, x = Shared().eval(), torch.randn(5, 6)
    rt.quantize_(model, {"[ab]": rt.W4A8(16)}, calibration=[x], force=True)
    state = model.state_dict()
    other = Shared().eval()
    report = rt.load_quantized_(other, state)
    assert (report.entries[0].fqn, report.entries[0].also) == ("a", ("b",)) and other.a is other.b
    assert torch.equal(other(x), model(x))
    assert [type(m) for m in other.modules()] == [type(m) for m in model.modules()]
    with pytest.raises(rt.UnsupportedProblem, match="load_quantized_"):
        rt.restore_(other)
    fresh = Shared().eval()
    before = snapshot(fresh)
    for key in state:
        for bad in ({k: t for k, t in state.items() if k != key}, {**state, key: state[key].to("meta")}):
            with pytest.raises(rt.FormatError):
                rt.load_quantized_(fresh, bad)
            assert unchanged(fresh, before), key
    with pytest.raises(rt.FormatError, match="one layer"):
        rt.load_quantized_(fresh, {**state, "b.bias": state["b.bias"] + 1})
    with pytest.raises(rt.FormatError, match="more"):
        rt.load_quantized_(fresh, {**state, "more": torch.zeros(3)})
    assert unchanged(fresh, before)


class Stubborn(nn.Module):
    """Refuses a state at the very end of a load."""

    def _load_from_state_dict(self, *args: object, **kwargs: object) -> None:
        raise KeyError("not mine")


def test_load_quantized_undoes_what_a_module_of_the_model_refuses() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), Stubborn()).eval()
    swapped = nn.Sequential(rt.nn.QuantLinear.from_float(nn.Linear(4, 4), "w8a16"), nn.LayerNorm(4), nn.Identity())
    with torch.no_grad():
        swapped[1].weight.fill_(2.0)
    before = snapshot(model)
    with pytest.raises(rt.FormatError, match="not mine"):
        rt.load_quantized_(model, swapped.state_dict())
    assert unchanged(model, before)


def test_load_quantized_after_sparsify_and_quantize() -> None:
    net = lambda: nn.Sequential(nn.Linear(48, 64), nn.ReLU(), nn.Linear(64, 32), nn.Conv1d(1, 2, 3), nn.Flatten())  # noqa: E731

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = net()

        def forward(self, x: Tensor) -> Tensor:
            return self.body[3](self.body[:3](x)[:, None])

    model, x = Net().eval(), torch.randn(64, 48)
    rt.sparsify_(model, {"*.0": rt.Unstructured(0.8), "*.3": rt.Unstructured(0.5)}, calibration=[x], method="wanda")
    rt.quantize_(model, "w8a8", calibration=[x], force=True)
    other = Net().eval()
    report = rt.load_quantized_(other, model.state_dict())
    assert [type(m).__name__ for m in other.body][::2] == ["SparseLinear", "QuantLinear", "Flatten"]
    assert report.swapped == 3 and torch.equal(other(x), model(x))


def test_a_model_of_which_nothing_was_swapped() -> None:
    model, other, x = make(1), make(2), torch.randn(2, 24)
    assert rt.load_quantized_(other, model.state_dict()).swapped == 0
    assert torch.equal(other(x), model(x))
