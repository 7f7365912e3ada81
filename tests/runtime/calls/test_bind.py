"""A bound call reads and writes the caller's memory, also where the model is not one native call."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import rtaccel as rt


class WithTorchStep(nn.Module):
    """A sort between two layers, which no operator computes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(11, 7), nn.Linear(7, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.special.airy_ai(self.first(x)))


@pytest.mark.parametrize("backend", [None, "portable"])
@pytest.mark.parametrize("model", [nn.Sequential(nn.Linear(11, 7), nn.ReLU(), nn.Linear(7, 5)), WithTorchStep()])
def test_bound_call_follows_its_memory(model: nn.Module, backend: str | None) -> None:
    model.eval()
    x = torch.randn(3, 11)
    fast = rt.compile(model, (x,), backend=backend)
    out = torch.full((3, 5), torch.nan)
    step = fast.bind(x, out=out)
    for _ in range(3):
        x.normal_()
        out.fill_(torch.nan)
        assert step() is None
        with torch.no_grad():
            torch.testing.assert_close(out, model(x), rtol=1e-5, atol=1e-5)
