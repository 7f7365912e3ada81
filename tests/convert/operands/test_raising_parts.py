"""A part that raises, where the model catches it and calls it in another way: the batch stays open."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt


class Part(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 5)

    def forward(self, x: Tensor, scale: float | None = None) -> Tensor:
        y = self.layer(x)
        if scale is not None:
            raise ValueError("no scale")
        return torch.relu(y)


class Model(nn.Module):
    def __init__(self, named: str) -> None:
        super().__init__()
        self.named, self.parts = named, nn.ModuleList([Part(), Part()])

    def forward(self, x: Tensor) -> Tensor:
        for part in self.parts:
            try:
                x = part(x, **{self.named: 2.0})
            except (TypeError, ValueError):
                x = part(x)
        return x


@pytest.mark.parametrize("named", ["scale", "lengths"])
def test_the_model_goes_on(named: str) -> None:
    model = Model(named).eval()
    fast = rt.compile(model, (torch.randn(1, 7, 5),), strict=True)
    for batch in (1, 2, 3):
        x = torch.randn(batch, 7, 5)
        torch.testing.assert_close(fast(x), model(x).detach(), rtol=1e-4, atol=1e-5)
