"""rt.compile with int8: schemes by name, calibration, and layers that were swapped before."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import rtaccel as rt
from tests.runtime.test_compile import kernels


def test_schemes_by_name_pattern() -> None:
    model = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4)).eval()
    fast = rt.compile(
        model, (torch.randn(1, 32),), {"2": "w8a8", "4": rt.W8A8("dynamic")}, calibration=[torch.randn(64, 32)]
    )
    dtypes = {line.name: line.what for line in fast.explain_lines(measure=False) if line.what.startswith("linear")}
    assert "float32[1, 32]" in dtypes["0"].split("->")[0]
    assert "int8[1, 32]" in dtypes["2"].split("->")[0]
    assert "int8[1, 32], float32[1, 1]" in dtypes["4"].split("->")[0]


@pytest.mark.parametrize("backend", ["portable", "cpu"])
@pytest.mark.parametrize("activation", ["static", "dynamic"])
def test_backends_agree_bit_for_bit(backend: str, activation: str) -> None:
    model = nn.Sequential(nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, 20), nn.LeakyReLU(), nn.Linear(20, 10)).eval()
    x = torch.randn(35, 40)
    results = [rt.compile(model, (x[:1],), rt.W8A8(activation), calibration=[x], backend=b)(x) for b in (None, backend)]
    assert torch.equal(*results)


def test_without_calibration_rows_are_dynamic_and_it_says_so() -> None:
    model = nn.Linear(16, 16).eval()
    fast = rt.compile(model, (torch.randn(1, 16),), "w8a8")
    assert "dynamic" in fast.explain(measure=False)
    with pytest.raises(rt.FormatError, match="calibration"):
        rt.compile(model, (torch.randn(1, 16),), rt.W8A8("static"))


@pytest.mark.parametrize("observer", ["absmax", "percentile", "mse"])
def test_observers(observer) -> None:
    torch.manual_seed(5)
    model = nn.Sequential(nn.ReLU(), nn.Linear(64, 32)).eval()
    x = torch.randn(4000, 64)
    x[0, 0] = 500.0  # one outlier: covering it costs every other value its steps
    fast = rt.compile(model, (x[:1],), rt.W8A8(observer=observer), calibration=[x])
    want = model(x[1:]).detach()
    error = (fast(x[1:]) - want).square().mean().sqrt() / want.std()
    assert (error > 0.2) == (observer == "absmax"), error


@pytest.mark.parametrize("calibrated", [True, False])
def test_a_swapped_model_compiles_to_the_same_bits(calibrated: bool) -> None:
    model = nn.Sequential(
        nn.Linear(24, 40), nn.ReLU(), nn.Linear(40, 30, bias=False), nn.GELU(), nn.Linear(30, 5)
    ).eval()
    data = [torch.randn(64, 24)]
    rt.quantize_(model, "w8a8", calibration=data if calibrated else None, force=True)
    x = torch.randn(9, 24)
    want = model(x)
    fast = rt.compile(model, (x,))
    assert "torch" not in kernels(fast)
    whats = [line.what for line in fast.explain_lines(measure=False) if line.what.startswith("linear")]
    assert len(whats) == 3
    assert all(what.startswith("linear(int8") for what in whats)
    # Between int8 layers one rounding differs: the scale of the next layer is folded in before it, not applied after.
    steps = (fast(x) - want).abs().max() / want.abs().max()
    assert steps < (0.02 if calibrated else 1e-6), steps


class TwoReaders(nn.Module):
    """One value read by two swapped layers that were given different scales."""

    def __init__(self) -> None:
        super().__init__()
        scheme = rt.W8A8("static")
        self.first = nn.Linear(8, 16)
        self.a = rt.nn.QuantLinear.from_float(nn.Linear(16, 4), scheme, torch.rand(99, 16))
        self.b = rt.nn.QuantLinear.from_float(nn.Linear(16, 4), scheme, torch.rand(99, 16) * 9)

    def forward(self, x):
        h = torch.relu(self.first(x))
        return self.a(h), self.b(h), h


def test_two_scales_for_one_value() -> None:
    model = TwoReaders().eval()
    x = torch.randn(5, 8)
    fast = rt.compile(model, (x,))
    for got, want in zip(fast(x), model(x)):
        torch.testing.assert_close(got, want.detach(), rtol=0, atol=0.02)
    again = rt.compile(model, (x,))
    again.load_state_dict(fast.state_dict())
    for got, want in zip(again(x), fast(x)):
        assert torch.equal(got, want)
