"""Layers that train with fake quantization: prepared, trained, compiled without a change of numbers, restored."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import rtaccel as rt

SCHEMES = [
    rt.W8A8("static"), rt.W8A8("dynamic"), rt.W4A8(32, "static"), rt.W4A8(16, "dynamic"), rt.W4A16(), rt.W8A16(),
]  # fmt: skip
A16_STEP = 1 / 65_278
"""Half a step of the 16-bit activations that a kernel may use, over the largest of a row."""


def mlp(k: int = 24, h: int = 32, n: int = 5) -> nn.Module:
    return nn.Sequential(nn.Linear(k, h), nn.ReLU(), nn.Linear(h, h), nn.Tanh(), nn.Linear(h, n))


def images() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 1), nn.ReLU(),
        nn.Conv2d(12, 12, 3, stride=2, groups=3), nn.ReLU(), nn.Flatten(), nn.Linear(12 * 9, 10),
    )  # fmt: skip


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase], **options: Any) -> None:
        super().__init__()
        self.memory = kind(6, 16, batch_first=True, **options)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.memory(x)[0][:, -1])


def step(model: nn.Module, x: Tensor, y: Tensor, steps: int = 15, rate: float = 5e-3) -> list[float]:
    """Losses of some steps of training, in training mode; back in eval mode after."""
    optimizer = torch.optim.Adam(model.parameters(), rate)
    losses = []
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    model.eval()
    return losses


def steps_apart(fast: Any, model: nn.Module, x: Tensor) -> float:
    """Largest difference over the largest result. A sum in another order may fall into the next step of int8, rarely."""
    with torch.no_grad():
        want = model(x)
    return float((fast(x) - want).abs().max() / want.abs().max())


def stored(fast: Any) -> dict[str, Tensor]:
    return {name: t for name, t in fast.state_dict().items() if isinstance(t, Tensor)}


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_a_trained_network_is_compiled_with_its_numbers(scheme: rt.W8A8) -> None:
    torch.manual_seed(0)
    model, x, y = mlp(), torch.randn(128, 24), torch.randn(128, 5)
    report = rt.prepare_qat_(model, scheme, calibration=[x])
    assert (report.prepared, report.kept) == (3, 0)
    losses = step(model, x, y)
    assert losses[-1] < losses[0]
    fresh = torch.randn(300, 24)
    fast = rt.compile(model, (x[:1],), strict=True)
    limit = 2e-6 if "a8" in scheme.name else 20 * A16_STEP
    apart = [steps_apart(fast, model, row[None]) for row in fresh]
    assert sorted(apart)[int(0.9 * len(apart))] <= limit
    assert max(apart) <= 0.05
    assert "as training with fake quantization left them" in fast.explain()


def test_the_stored_integers_are_those_of_training() -> None:
    torch.manual_seed(0)
    model, x = mlp(), torch.randn(64, 24)
    rt.prepare_qat_(model, {"0": rt.W8A8(), "2": rt.W4A8(), "4": rt.W8A8()}, calibration=[x])
    step(model, x, torch.randn(64, 5), 5)
    fast = rt.compile(model, (x[:1],))
    kept = stored(fast)

    from rtaccel.formats import int4, int8

    q, scale = int8.quantize_weight(model[0].weight)
    packed, groups = int4.quantize_weight(model[2].weight, 32)
    for want in (q, scale, packed, groups):
        assert any(t.dtype == want.dtype and t.shape == want.shape and torch.equal(t, want) for t in kept.values())
    for index in (0, 2, 4):
        quant = model[index].numbers().quant
        assert quant is not None
        assert any(t.numel() == 1 and float(t) == quant.scale for t in kept.values())


@pytest.mark.parametrize("scheme", ["w8a8", rt.W4A8(), rt.W8A8("dynamic")], ids=str)
def test_convolutions_and_their_norms(scheme: Any) -> None:
    """BatchNorm goes into the scales of int8 weights behind it, whose integers stay."""
    torch.manual_seed(0)
    model, x = images(), torch.randn(64, 1, 8, 8)
    report = rt.prepare_qat_(model, scheme, calibration=[x])
    assert report.prepared == 4
    with torch.no_grad():
        model[1].weight.mul_(torch.randn(8).sign())
    step(model, x, torch.randn(64, 10))
    model[1].weight.data[3] = -0.7
    fast = rt.compile(model, (x[:1],), strict=True)
    assert "[8]" not in fast.explain()
    assert sum("conv(" in line or "linear(" in line for line in fast.explain().splitlines()) == 4
    apart = [steps_apart(fast, model, sample[None]) for sample in torch.randn(100, 1, 8, 8)]
    assert sorted(apart)[25] <= 2e-6  # of hundreds of numbers each, one may fall into the next step
    assert max(apart) <= 0.1


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
@pytest.mark.parametrize("scheme", [rt.W8A8(), rt.W4A8(), rt.W8A8("dynamic")], ids=str)
def test_recurrent_layers_as_windows_and_as_streams(kind: type[nn.RNNBase], scheme: rt.W8A8) -> None:
    torch.manual_seed(0)
    model, x = Recurrent(kind, num_layers=2), torch.randn(40, 12, 6)
    assert rt.prepare_qat_(model, scheme, calibration=[x]).prepared == 2
    losses = step(model, x, torch.randn(40, 3), 8)
    assert losses[-1] < losses[0]
    fast = rt.compile(model, (x[:1],), strict=True)
    apart = [steps_apart(fast, model, window[None]) for window in x]
    assert sorted(apart)[30] <= 2e-5
    assert max(apart) <= 0.1
    live = rt.stream(model, x[:1, 0])
    for t in range(12):
        y = live.step(x[:1, t])
    assert (y - fast(x[:1])).abs().max() <= 2e-6 * float(y.abs().max()) + 1e-6


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 40), st.integers(1, 33), st.integers(1, 17), st.sampled_from(range(4)))
def test_any_size_computes_the_same_numbers(k: int, h: int, n: int, which: int) -> None:
    torch.manual_seed(k * h)
    model, x = mlp(k, h, n).eval(), torch.randn(50, k)
    rt.prepare_qat_(model, SCHEMES[which], calibration=[x])
    fast = rt.compile(model, (x[:1],))
    apart = [steps_apart(fast, model, row[None]) for row in x]
    assert sorted(apart)[45] <= 1e-5


def test_parameters_stay_the_same_objects_and_copies_are_whole() -> None:
    torch.manual_seed(0)
    model, x = mlp(), torch.randn(64, 24)
    before = dict(model.named_parameters())
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    rt.prepare_qat_(model, "w4a8", calibration=[x])
    for name, parameter in before.items():
        assert model.get_parameter(name) is parameter
    was = before["0.weight"].detach().clone()
    model(x).square().mean().backward()
    optimizer.step()
    assert not torch.equal(before["0.weight"], was)
    twin = copy.deepcopy(model)
    assert torch.equal(twin(x), model(x))
    with torch.no_grad():
        twin[0].weight.zero_()
    assert model[0].weight.abs().sum() > 0
    other = mlp()
    rt.prepare_qat_(other, "w4a8", calibration=[torch.randn(8, 24)])
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(x), model(x))


def test_restored_layers_have_the_trained_weights() -> None:
    torch.manual_seed(0)
    model, x = Recurrent(nn.GRU), torch.randn(20, 5, 6)
    names = [type(m) for m in model.modules()]
    rt.prepare_qat_(model, "w8a8", calibration=[x])
    step(model, x, torch.randn(20, 3), 3)
    weight = model.head.weight
    near = model(x)
    assert rt.restore_(model) == 2
    assert [type(m) for m in model.modules()] == names
    assert model.head.weight is weight
    assert not any("range" in name or "scale" in name for name in model.state_dict())
    assert 0 < (model(x) - near).abs().max() < 0.1
    assert rt.restore_(model) == 0


def test_modes_come_back_and_training_mode_is_no_obstacle() -> None:
    torch.manual_seed(0)
    model, x = images().train(), torch.randn(16, 1, 8, 8)
    model[1].eval()
    mean = model[1].running_mean.clone()
    rt.prepare_qat_(model, "w8a8", calibration=[x])
    assert [m.training for m in model] == [True, False, *[True] * 7]
    assert torch.equal(model[1].running_mean, mean)


def test_ranges_learn_and_can_stay() -> None:
    torch.manual_seed(0)
    model, x, y = mlp(), torch.randn(64, 24), torch.randn(64, 5)
    rt.prepare_qat_(model, "w8a8", calibration=[x])
    numbers = model[2].numbers().quant
    model[4].range_factor.requires_grad_(False)
    step(model, x, y, 10)
    assert model[2].numbers().quant != numbers
    assert not model[4].range_factor.any()


def test_what_is_left_as_it_is_says_why() -> None:
    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
            self.r = nn.GRU(8, 8)

        def forward(self, x: Tensor) -> Any:
            return self.r(self.a(x))[0]

    model = Net()
    report = rt.prepare_qat_(model, {"r": "w8a16", "*": "w8a8"}, lambda m, name: name != "c", [torch.randn(4, 8)])
    said = {e.fqn: (e.action, e.reason) for e in report}
    assert said["a"] == ("prepared", "trains with fake quantization")
    assert said["b"] == ("kept", "no calibration batch reached it")
    assert said["c"] == ("kept", "filter_fn left it out")
    assert said["r"][0] == "kept"
    assert type(model.b) is nn.Linear
    again = rt.prepare_qat_(model, "w8a8", calibration=[torch.randn(4, 8)])
    assert {e.fqn: e.reason for e in again}["a"] == "it is prepared already"


@pytest.mark.parametrize(
    ("scheme", "calibration", "error", "match"),
    [
        (rt.W8A8("static"), None, rt.FormatError, "calibration"),
        ("bfloat16", None, rt.UnsupportedProblem, "w8a8"),
        (rt.W4A8(rounding="gptq"), [torch.randn(4, 24)], rt.FormatError, "rounding"),
        ("w8a8", [torch.full((4, 24), float("nan"))], rt.FormatError, "NaN"),
        ("w8a8", [], rt.FormatError, "batch"),
        ("w8a8", [torch.randn(4, 23)], rt.FormatError, "inputs of the model"),
    ],
)
def test_bad_input_changes_nothing(scheme: Any, calibration: Any, error: Any, match: str) -> None:
    model = mlp()
    layers = list(model)
    with pytest.raises(error, match=match):
        rt.prepare_qat_(model, scheme, calibration=calibration)
    assert all(a is b for a, b in zip(model, layers))
    with pytest.raises(rt.UnsupportedProblem, match="itself"):
        rt.prepare_qat_(nn.Linear(3, 3), "w8a8")


def test_weights_that_are_not_finite_change_nothing() -> None:
    model = mlp()
    with torch.no_grad():
        model[2].bias[0] = float("inf")
    with pytest.raises(rt.FormatError, match=r"2\.bias"):
        rt.prepare_qat_(model, "w8a8", calibration=[torch.randn(4, 24)])
    assert type(model[0]) is nn.Linear


def test_a_layer_that_falls_back_keeps_its_numbers() -> None:
    """A model that is not captured runs as it is, fake quantization included."""

    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Any:
            return self.linear(x) if x.sum().item() > 0 else -self.linear(x)

    torch.manual_seed(0)
    model, x = Odd(), torch.randn(8, 4)
    rt.prepare_qat_(model, "w8a8", calibration=[x])
    model.eval()
    with pytest.warns(UserWarning, match="not captured"):
        fast = rt.compile(model, (x[:1],))
    assert torch.allclose(fast(x[:1]), model(x[:1]), atol=1e-5)
