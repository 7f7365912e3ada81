"""An activation behind a formula, which layers read: one pass in float32, and one that writes int8 where layers are int8."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt
from rtaccel.kernels._common import activations
from tests.support.one_stage import compiled_both, operators_of

ACTIVATIONS = {
    "relu": nn.ReLU(), "leaky_relu": nn.LeakyReLU(0.2), "elu": nn.ELU(0.7), "gelu": nn.GELU(), "gelu_tanh": nn.GELU("tanh"),
    "silu": nn.SiLU(), "tanh": nn.Tanh(), "sigmoid": nn.Sigmoid(), "clipped_relu": nn.ReLU6(), "hardswish": nn.Hardswish(),
    "hardsigmoid": nn.Hardsigmoid(), "softplus": nn.Softplus(), "mish": nn.Mish(), "selu": nn.SELU(),
}  # fmt: skip


def test_there_is_one_of_each() -> None:
    assert {*ACTIVATIONS, "none"} == {*activations.ACTIVATIONS}


def network(activation: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(6, 6, 1), nn.GroupNorm(3, 6), activation, nn.Conv2d(6, 5, 3, padding=1)).eval()


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_in_one_pass(name: str) -> None:
    model = network(ACTIVATIONS[name])
    native, plain, found = compiled_both(model, (torch.randn(2, 6, 9, 11),))
    assert "pointwise" not in found, found
    for rows in (1, 2, 5):
        x = torch.randn(rows, 6, 9, 11) * 3
        want = model(x)
        for fast in (native, plain):
            torch.testing.assert_close(fast(x), want, rtol=2e-5, atol=2e-5)


def test_int8_is_written_by_the_activation() -> None:
    model, data = network(nn.ReLU()), [torch.randn(2, 6, 9, 11) for _ in range(4)]
    fast = rt.compile(model, data[0], "w8a8", calibration=data, verify=False)
    assert any("int8" in line.what and "+ relu" in line.what for line in fast.explain_lines(measure=False))
    error = (fast(data[0]) - model(data[0])).square().mean().sqrt() / model(data[0]).square().mean().sqrt()
    assert error < 0.05


class Twice(nn.Module):
    """What the norm makes is read beside its activation."""

    def __init__(self, result: bool) -> None:
        super().__init__()
        self.norm, self.layer, self.result = nn.GroupNorm(2, 6), nn.Conv2d(6, 6, 3, padding=1), result

    def forward(self, x: Tensor):
        y = self.norm(x)
        z = self.layer(y.relu())
        return (z, y) if self.result else z + self.layer(y)


@pytest.mark.parametrize("result", [False, True])
def test_stays_where_somebody_reads_what_comes_before(result: bool) -> None:
    model = Twice(result).eval()
    example = torch.randn(2, 6, 9, 11)
    native, plain = (rt.compile(model, example, backend=b, verify=False) for b in ("cpu", "portable"))
    assert "pointwise" in operators_of(native)
    x = torch.randn(3, 6, 9, 11)
    want = model(x)
    for fast in (native, plain):
        got = fast(x)
        for a, b in zip(got, want) if result else [(got, want)]:
            torch.testing.assert_close(a, b, rtol=2e-5, atol=2e-5)
