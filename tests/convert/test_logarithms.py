"""Layers before a logarithm stay float32 under schemes of int8 activations, and no others."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt


class FrontEnd(nn.Module):
    """Log-mel features as packages write them: a Fourier transform by convolutions, powers, a bank of filters, a logarithm."""

    def __init__(self, log: str, turned: bool) -> None:
        super().__init__()
        bins = torch.arange(33)[:, None] * torch.arange(64) * (2 * torch.pi / 64)
        self.log, self.turned = log, turned
        self.real, self.imag = (nn.Conv1d(1, 33, 64, stride=16, bias=False) for _ in range(2))
        self.real.weight.data, self.imag.weight.data = bins.cos()[:, None], bins.sin()[:, None]
        self.bank = nn.Linear(33, 12, bias=False)
        self.bank.weight.data = torch.rand(12, 33) * (torch.rand(12, 33) < 0.3) + 0.01
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        power = (self.real(x).square() + self.imag(x).pow(2)).transpose(1, 2)
        mel = self.bank(power).clamp(min=1e-10)
        if self.turned:
            mel = mel.permute(0, 2, 1).contiguous().transpose(1, 2)
        found = getattr(torch, self.log)(mel)
        return found, self.head(found / found.std()).log_softmax(-1)


def _sound() -> Tensor:
    """A tone over quiet noise: powers of eight decades."""
    time = torch.arange(400) / 400
    return torch.sin(2 * torch.pi * 25 * time + torch.rand(4, 1, 1) * 6) + 1e-4 * torch.randn(4, 1, 400)


@pytest.mark.parametrize("scheme", ["w8a8", rt.W8A8(activation="dynamic"), "w4a8"], ids=["static", "dynamic", "w4a8"])
@pytest.mark.parametrize(("log", "turned"), [("log", False), ("log10", True), ("log2", False)])
def test_small_powers_are_kept(scheme: object, log: str, turned: bool) -> None:
    torch.manual_seed(3)
    model, x = FrontEnd(log, turned).eval(), _sound()
    fast = rt.compile(model, x, scheme, calibration=[_sound() for _ in range(4)])
    given = _sound()
    found, want = fast(given)[0], model(given)[0]
    # Sums of 64 products of a tone beside powers 1e-8 of it: float32 itself leaves out their last digits.
    torch.testing.assert_close(found, want, rtol=0.02, atol=0.02)
    text = fast.explain()
    assert "float32, as a logarithm follows: real, imag, bank" in text
    assert any(line.split()[1:2] == ["head"] and "linear(int8" in line for line in text.splitlines())


def test_a_pattern_that_names_a_layer_decides() -> None:
    torch.manual_seed(4)
    model, x = FrontEnd("log", False).eval(), _sound()
    fast = rt.compile(model, x, {"bank": "w8a8", "*": "w8a8"}, calibration=[_sound() for _ in range(4)])
    text = fast.explain()
    assert "float32, as a logarithm follows: real, imag;" in text


class Ended(nn.Module):
    def __init__(self, end: str) -> None:
        super().__init__()
        self.end, self.first, self.second = end, nn.Linear(24, 32), nn.Linear(32, 16)

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(self.first(x).relu())
        ends = {
            "log_softmax": lambda: y.log_softmax(-1),
            "logsumexp": lambda: y.logsumexp(-1),
            "of_exp": lambda: (y.exp() + 1).sum(-1).log(),
            "of_softplus": lambda: nn.functional.softplus(y).log(),
            "log1p": lambda: y.abs().log1p(),
            "of_relu": lambda: (y.relu() + 1e-3).log(),
        }
        return ends[self.end]()


@pytest.mark.parametrize("end", ["log_softmax", "logsumexp", "of_exp", "of_softplus", "log1p", "of_relu"])
def test_only_what_a_logarithm_makes_large(end: str) -> None:
    model, data = Ended(end).eval(), [torch.randn(3, 24) for _ in range(4)]
    fast = rt.compile(model, data[0], "w8a8", calibration=data)
    note = "float32, as a logarithm follows: second;"
    assert (note in fast.explain()) == (end == "of_relu")
