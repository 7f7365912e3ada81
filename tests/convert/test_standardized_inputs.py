"""A network that standardizes raw sensors itself: their scales stay out of the weights, so quantization and float32 keep their
precision; a norm between layers still folds."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import rtaccel as rt

MEAN = [9000.0, 500.0, 1400.0, 47.0, 0.03, 2388.0, 8.4, 390.0]
DEVIATION = [20.0, 0.5, 9.0, 0.3, 0.001, 0.07, 0.04, 1.5]


class Standardizes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(MEAN))
        self.register_buffer("scale", 1 / torch.tensor(DEVIATION))
        self.layers = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers((x - self.mean) * self.scale)


@pytest.mark.parametrize(
    ("scheme", "limit"), [("float32", 1e-5), ("w8a8", 0.05), ("w8a16", 0.03), ("w4a8", 0.25), ("w4a16", 0.25)]
)
@pytest.mark.parametrize("seed", range(3))
def test_raw_sensors(scheme: str, limit: float, seed: int) -> None:
    torch.manual_seed(seed)
    model = Standardizes().eval()
    x = torch.tensor(MEAN) + torch.randn(256, 8) * torch.tensor(DEVIATION)
    fast = rt.compile(model, (x[:1],), scheme, calibration=[x])
    with torch.no_grad():
        wanted = model(x)
        assert float((fast(x) - wanted).pow(2).mean().sqrt() / wanted.std()) <= limit


def test_an_ordinary_norm_still_folds() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm1d(8), nn.Linear(8, 4)).eval()
    with torch.no_grad():
        model[0].running_mean.uniform_(-1, 1)  # type: ignore[operator, union-attr]
        model[0].running_var.uniform_(0.5, 2)  # type: ignore[operator, union-attr]
    x = torch.randn(5, 8)
    fast = rt.compile(model, (x[:1],))
    torch.testing.assert_close(fast(x), model(x))
    assert "1 of 1 stages native" in str(fast.explain())
