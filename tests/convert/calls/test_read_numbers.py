"""Numbers that a model reads of a tensor with `.item()` and computes with stay tensors of one number."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt

CALLS: dict[str, Callable[[Tensor], Tensor]] = {
    "limit": lambda y: torch.clamp(y, min=y.max().item() - 3.0),
    "limits": lambda y: torch.clamp(y, min=-y.max().item() / 2, max=y.max().item() * 0.5),
    "one of each": lambda y: torch.clamp(y, -0.3, y.mean().item()),
    "added": lambda y: y + y.max().item(),
    "scaled": lambda y: y * (1.0 / (y.abs().max().item() + 1.0)),
    "taken off": lambda y: (y - y.mean().item()) / (2.0 - y.amin().item()),
    "of two": lambda y: y * (y.max().item() - y.min().item()),
}


class Reads(nn.Module):
    def __init__(self, call: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.layer, self.call = nn.Linear(8, 8), call

    def forward(self, x: Tensor) -> Tensor:
        return self.call(self.layer(x)) * 2


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("samples", [1, 3])
def test_equals_torch(name: str, samples: int) -> None:
    """Of one sample all is native. The largest number of several samples has torch as its only operator."""
    torch.manual_seed(0)
    model = Reads(CALLS[name]).eval()
    fast = rt.compile(model, torch.randn(samples, 8), verify=False, strict=samples == 1)
    for _ in range(3):
        x = torch.randn(samples, 8)
        torch.testing.assert_close(fast(x), model(x).detach(), rtol=1e-5, atol=1e-5)


def test_what_else_python_does_with_a_number_stays() -> None:
    class Repeats(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.full((4,), x.max().item()) + x

    model = Repeats().eval()
    fast = rt.compile(model, torch.randn(2, 4))
    x = torch.randn(2, 4)
    torch.testing.assert_close(fast(x), model(x))
