"""Quotients rounded down or towards zero, bit for bit as torch has them: by zero, of infinities, of NaN, near whole numbers."""

from __future__ import annotations

import math
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


def _pairs(kind: str, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    def normal() -> Tensor:
        return torch.randn(3, 1000, generator=generator)

    def bits() -> Tensor:
        drawn = torch.randint(-(2**31), 2**31, (3, 1000), generator=generator, dtype=torch.int64)
        return drawn.to(torch.int32).view(torch.float32)

    if kind == "bits":
        return bits(), bits()
    if kind == "wide":
        return normal() * 10.0 ** torch.randint(-4, 9, (3, 1000), generator=generator), normal()
    b = normal()
    a = b * torch.randint(-5000, 5000, b.shape, generator=generator)  # at a whole quotient, or a rounding beside it
    return torch.where(torch.rand(b.shape, generator=generator) < 0.5, torch.nextafter(a, a + 1), a), b


def _fmod(a: float, b: float) -> float:
    return math.nan if math.isinf(a) or b == 0.0 else math.fmod(a, b)


@pytest.mark.parametrize("kind", ["bits", "wide", "whole"])
def test_remainders_are_exact(kind: str) -> None:
    """Beside the C library's, in float64, which holds every remainder of float32 numbers."""
    x, y = _pairs(kind, torch.Generator().manual_seed(2))
    got = rt.compile(Quotient(torch.fmod).eval(), (x, y), verify=False, strict=True)(x, y)
    want = torch.tensor([_fmod(a, b) for a, b in zip(x.flatten().tolist(), y.flatten().tolist())]).view_as(x)
    assert torch.equal(got.isnan(), want.isnan())
    assert torch.equal(got.nan_to_num(), want.nan_to_num())
    assert torch.equal(torch.signbit(got)[~want.isnan()], torch.signbit(want)[~want.isnan()])
