"""Products of one column and one row: numbers by numbers, without a matrix product, however many samples and groups there are."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt


class Outer(nn.Module):
    """Of two halves of x, or of one and a parameter, with their dimensions in any order."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.rng = rng = random.Random(seed)
        torch.manual_seed(seed)
        self.leading = [rng.randint(1, 6) for _ in range(rng.randint(0, 2))]
        self.sizes = rng.randint(1, 9), rng.randint(1, 9)
        self.kind = rng.choice(("halves", "parameter", "turned", "by_name", "broadcast"))
        self.weight = nn.Parameter(torch.randn(1, self.sizes[1]))

    def forward(self, x: Tensor) -> Tensor:
        a, b = x[..., : self.sizes[0]], x[..., self.sizes[0] :]
        if self.kind == "parameter":
            return a.unsqueeze(-1) @ self.weight
        if self.kind == "turned":
            return (b.unsqueeze(-1) @ a.unsqueeze(-2)).mT.cumsum(-1)
        if self.kind == "by_name":
            return torch.einsum("...i,...j->...ij", a, b).relu()
        if self.kind == "broadcast":
            return a.unsqueeze(1).unsqueeze(-1) @ b.flip(-1).unsqueeze(1).unsqueeze(-2)
        return (a.unsqueeze(-1) @ b.unsqueeze(-2)).sum(1)


@pytest.mark.parametrize("seed", range(40))
def test_equals_torch(seed: int) -> None:
    model = Outer(seed).eval()
    width = sum(model.sizes)
    fast = rt.compile(model, torch.randn(3, *model.leading, width), verify=False, strict=True)
    assert "matmul(" not in str(fast.explain(measure=False)), model.kind
    for samples in (3, 1, 4):
        x = torch.randn(samples, *model.leading, width)
        torch.testing.assert_close(fast(x), model(x), rtol=1e-5, atol=1e-5)
