"""Layers of a block-diagonal matrix, as `einsum` and products of a parameter with several matrices write them."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt
from tests.support.against_torch import check_equals_torch


class Blocks(nn.Module):
    """Blocks of the columns of x, each with a matrix of its own: as columns of the result, in front of the steps, or in part."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        rng = random.Random(seed)
        torch.manual_seed(seed)
        self.groups, self.k, self.j = rng.choice((2, 3, 4, 16)), rng.choice((1, 2, 4, 5, 16)), rng.choice((1, 3, 4, 8))
        self.way = rng.choice(("einsum", "turned", "bmm", "heads", "part", "rows"))
        self.wide = self.groups * self.k + (5 if self.way == "part" else 0)
        self.steps = rng.choice((1, 4, 7, 33))
        self.before = nn.Linear(9, self.wide)
        self.weight = nn.Parameter(torch.randn(self.groups, self.k, self.j))
        self.after = rng.choice((nn.Identity(), nn.ReLU(), nn.GELU()))

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(x)[..., : self.groups * self.k]
        y = x.reshape(*x.shape[:-1], self.groups, self.k)
        if self.way in ("einsum", "part"):
            return self.after(torch.einsum("bthd,hdo->btho", y, self.weight).flatten(2))
        if self.way == "turned":
            return self.after(torch.einsum("bthd,hod->bhto", y, self.weight.transpose(1, 2)))
        if self.way == "heads":
            return self.after(y.transpose(1, 2) @ self.weight)
        if self.way == "rows":  # every block of each step as a row of its own: no layer of whole rows
            return self.after(
                (y.reshape(y.shape[0], -1, self.k).unsqueeze(2) @ self.weight.repeat(x.shape[1], 1, 1))[:, :, 0]
            )
        return self.after((y.transpose(1, 2) @ self.weight).transpose(1, 2).flatten(2))


@pytest.mark.parametrize("seed", range(60))
def test_equals_torch(seed: int) -> None:
    """In float32, and in W8A8 the kernels of both backends."""
    model = Blocks(seed).eval()
    data = [torch.randn(2, model.steps, 9) for _ in range(32)]
    int8 = check_equals_torch(model, data)
    x, want = data[0], model(data[0])
    assert ((int8(x) - want).norm() / want.norm()).item() < 0.1


def test_whole_rows_take_no_copy() -> None:
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(16, 4, 4))

        def forward(self, x: Tensor) -> Tensor:
            return torch.einsum("bthd,hod->btho", x.unflatten(-1, (16, 4)), self.weight).flatten(2)

    fast = rt.compile(Heads().eval(), (torch.randn(1, 32, 64),))
    assert [line.what.split("(")[0] for line in fast.explain_lines(measure=False)] == ["conv"]
