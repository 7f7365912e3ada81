"""Entries that a mask chooses and that go back where it is true, the mask written in many ways: native, against torch."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt

WIDTH = 6
NOTS: tuple[Callable[[Tensor], Tensor], ...] = (torch.logical_not, lambda m: ~m)
SPREADS: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (
    lambda m, x: m.unsqueeze(-1), lambda m, x: m.unsqueeze(-1).expand_as(x), lambda m, x: m[..., None].expand(x.shape),
)  # fmt: skip


class Sides(nn.Module):
    """Two kinds of entries, each through layers of its own, as tokens of text and of sound are.

    kind [1, ...]: nothing is samples then, whose number would be open."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.rng = random.Random(seed)
        self.seed, self.over = seed, self.rng.choice((1, 2))
        self.layers = nn.ModuleList(
            nn.Sequential(nn.RMSNorm(WIDTH), nn.Linear(WIDTH, WIDTH), nn.SiLU()) for _ in range(4)
        )
        self.shape = (7, WIDTH) if self.over == 1 else (2, 5, WIDTH)

    def forward(self, x: Tensor, kind: Tensor) -> Tensor:
        rng = random.Random(self.seed)
        mask = kind[0] > 0
        for layer in self.layers:
            turn = rng.random() < 0.5
            chosen, again = (rng.choice(NOTS)(mask) if turn else mask for _ in range(2))
            values = layer(x[chosen])
            way = rng.randrange(4)
            if way == 0:
                x = x.masked_scatter(rng.choice(SPREADS)(again, x), values)
            elif way == 1 and turn:
                x = x.masked_scatter(rng.choice(NOTS)(rng.choice(SPREADS)(mask, x)), values)
            elif way == 2:
                x = x.clone()
                x[again] = values
            else:
                x = x.clone()
                x[again] += values
        return x * 2.0


@pytest.mark.parametrize("seed", range(16))
def test_equals_torch(seed: int) -> None:
    model = Sides(seed).eval()
    x, kind = torch.randn(model.shape), torch.randint(0, 2, (1, *model.shape[:-1]))
    fast = rt.compile(model, (x, kind), strict=True)  # nothing is left to PyTorch
    with torch.no_grad():
        for own in (kind, 1 - kind, kind * 0, kind * 0 + 1, torch.randint(0, 2, kind.shape)):
            x = torch.randn(model.shape)
            torch.testing.assert_close(fast(x, own), model(x, own), rtol=1e-5, atol=1e-5)


def test_another_mask_is_another() -> None:
    """As many entries, elsewhere: they go where the second mask says, in their order."""

    class Elsewhere(nn.Module):
        def forward(self, x: Tensor, kind: Tensor) -> Tensor:
            return x.masked_scatter((kind[0] < 0).unsqueeze(-1), x[kind[0] > 0].tanh())

    model, kind = Elsewhere().eval(), torch.tensor([[1, -1, 1, 0, -1, -1, 1]])
    fast = rt.compile(model, (torch.randn(7, WIDTH), kind), verify=False)
    for own in (kind, -kind, kind.flip(1)):
        x = torch.randn(7, WIDTH)
        torch.testing.assert_close(fast(x, own), model(x, own))
