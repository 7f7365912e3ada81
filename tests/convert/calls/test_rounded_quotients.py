"""Quotients rounded down or towards zero, bit for bit as torch has them: by zero, of infinities, of NaN, near whole numbers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt

SPECIAL = (
    0.0,
    -0.0,
    1.0,
    -1.0,
    2.0,
    -2.5,
    0.1,
    0.3,
    -0.3,
    6.0,
    7.5,
    1e30,
    1e-40,
    float("inf"),
    -float("inf"),
    float("nan"),
)
CALLS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "tensor": torch.floor_divide,
    "number": lambda x, y: x // 0.1,
    "negative": lambda x, y: torch.div(x, -2.5, rounding_mode="floor"),
    "zero": lambda x, y: x // 0.0,
    "of a number": lambda x, y: 7 // y,
    "mode": lambda x, y: torch.div(x, y, rounding_mode="floor"),
    "trunc": lambda x, y: torch.div(x, y, rounding_mode="trunc"),
}


class Quotient(nn.Module):
    def __init__(self, call: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.call = call

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.call(x, y)


@pytest.mark.parametrize("name", CALLS)
def test_equals_torch(name: str) -> None:
    pairs = torch.tensor([(a, b) for a in SPECIAL for b in SPECIAL]).t()
    drawn = torch.randn(2, 300) * torch.tensor([[10.0], [1.0]])
    x, y = torch.cat([pairs, drawn], 1).unsqueeze(1).expand(2, 3, -1).contiguous()
    model = Quotient(CALLS[name]).eval()
    fast = rt.compile(model, (x, y), verify=False, strict=True)
    got, want = fast(x, y), model(x, y)
    assert torch.equal(got.isnan(), want.isnan())
    assert torch.equal(got.nan_to_num(), want.nan_to_num())
    assert torch.equal(torch.signbit(got)[~want.isnan()], torch.signbit(want)[~want.isnan()])
