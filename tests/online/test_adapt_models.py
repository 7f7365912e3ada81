"""What Adapt learns beside: modules, compiled models and their plans, where features are tapped and a head is folded in."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import rtaccel as rt
from rtaccel.core.errors import FormatError, ShapeError, UnsupportedProblem
from rtaccel.online import Adapt, Better, RLSHead
from tests.online.test_adapt import callable_model, network


def test_models_without_features() -> None:
    with pytest.raises(UnsupportedProblem, match="tapped"):
        Adapt(lambda x: x)(torch.zeros(1, 6))
    int8 = rt.compile(network(), (torch.zeros(1, 6),), "w8a8", calibration=[torch.randn(8, 6)])
    with pytest.raises(UnsupportedProblem, match="tapped"):
        Adapt(int8)
    with pytest.raises(UnsupportedProblem, match=r"nn\.Linear"):
        rt.online.tapped(nn.Sequential(nn.ReLU()))
    with pytest.raises(UnsupportedProblem, match="tap"):
        rt.online.tapped(network(), "layer9")
    model = network()
    features = rt.compile(model[:2].eval(), (torch.zeros(1, 6),))  # type: ignore[index]
    adapt = Adapt(rt.compile(model, (torch.zeros(1, 6),)), tap=features)
    adapt(torch.zeros(1, 6))
    assert adapt.head is not None
    assert adapt.head.features == 13
    for settings_ in ({"on_drift": "panic"}, {"keep": 0}, {"inflation": -1.0}, {"head": 3}, {"scheme": "w8a8"}):
        with pytest.raises(FormatError, match="Adapt"):
            Adapt(callable_model, **settings_)  # type: ignore[arg-type]


@pytest.mark.parametrize("layer", ["penultimate", "0"])
def test_taps_compile_in_int8_too(layer: str) -> None:
    model, x = network(), torch.randn(64, 6)
    fast = rt.compile(rt.online.tapped(model, layer), (x[:1],), scheme=rt.W8A8(), calibration=[x])
    y, features = fast(x[:1])
    want = model[:2](x[:1]) if layer == "penultimate" else x[:1]  # type: ignore[index]
    torch.testing.assert_close(features, want, atol=0.1, rtol=0.1)
    torch.testing.assert_close(y, model(x[:1]), atol=0.1, rtol=0.1)


class Sequence(nn.Module):
    """The newest output of a GRU, a head, a sigmoid."""

    def __init__(self) -> None:
        super().__init__()
        self.memory, self.head = nn.GRU(4, 8, batch_first=True), nn.Linear(8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.head(self.memory(x)[0][:, -1]))


def test_compiled_models_are_tapped_in_their_plan() -> None:
    torch.manual_seed(0)
    model, x = Sequence().eval(), torch.randn(3, 5, 4)
    fast = rt.compile(model, (x,))
    both = rt.online.tapped(fast)
    y, features = both(x)
    assert torch.equal(y, fast(x))
    torch.testing.assert_close(features, model.memory(x)[0][:, -1])
    other = network()
    plain = rt.compile(other, (torch.zeros(1, 6),))
    adapt = Adapt(plain, tap="penultimate")
    x = torch.randn(4, 6)
    assert torch.equal(adapt(x), plain(x))
    assert adapt.head is not None
    assert adapt.head.features == 13
    named = rt.online.tapped(plain, "2")
    scaled = {key: 2 * value if value.is_floating_point() else value for key, value in plain.state_dict().items()}
    named.load_state_dict(scaled)
    torch.testing.assert_close(named(x)[1], torch.relu(2 * other[0](x)))  # type: ignore[operator]
    for layer in ("0", "9"):  # its input is the model's, or there is none
        with pytest.raises(UnsupportedProblem, match="tap"):
            rt.online.tapped(plain, layer)


def test_a_head_is_folded_into_the_last_layer() -> None:
    model, rng = network(), np.random.default_rng(8)
    example = (torch.zeros(1, 6),)
    adapt = Adapt(model, example, head=RLSHead(13, 2, p0=10.0), commit=Better(0.05, halflife=20))
    for _ in range(100):
        x = torch.from_numpy(rng.normal(size=(1, 6)).astype(np.float32))
        adapt(x)
        adapt.learn(model(x) * 1.5 - 0.7)
    assert adapt.committed
    assert adapt.head is not None
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = rt.online.folded(model, example, adapt.head)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])
    other = network(1)
    other.load_state_dict(state)
    x = torch.randn(9, 6)
    torch.testing.assert_close(other(x), adapt(x), rtol=1e-5, atol=1e-5)
    with pytest.raises(UnsupportedProblem, match="not the model's"):
        rt.online.folded(Sequence().eval(), (torch.zeros(1, 5, 4),), RLSHead(9, 1))
    with pytest.raises(ShapeError, match="folded"):
        rt.online.folded(model, example, RLSHead(14, 2))
