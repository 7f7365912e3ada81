"""`torch.cond`: both branches are computed, and the truth value takes one. Fresh branches, nested ones, several results."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import rtaccel as rt


class Branches(nn.Module):
    """Trees of branches, each with layers of its own, which give `results` tensors."""

    def __init__(self, rng: random.Random, depth: int, results: int) -> None:
        super().__init__()
        self.limit, self.results, self.kind = rng.choice((-1.0, 0.0, 1.0)), results, rng.randrange(4)
        self.deep = depth > 0
        if self.deep:
            self.yes, self.no = (Branches(rng, depth - rng.choice((1, depth)), results) for _ in range(2))
        self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(results))

    def forward(self, x: Tensor, gate: Tensor) -> tuple[Tensor, ...]:
        if self.deep:
            made = torch.cond(gate.sum() > self.limit, self.yes, self.no, (x, gate * 2 - 1))
            return tuple(layer(y) for layer, y in zip(self.layers, made))
        y = (x, torch.relu(x) - 1, x * gate, torch.softmax(x, -1) * gate.mean())[self.kind]
        return tuple(layer(y) for layer in self.layers)


@pytest.mark.parametrize("seed", range(10))
def test_random_branches(seed: int) -> None:
    rng = random.Random(seed)
    torch.manual_seed(seed)
    model = Branches(rng, rng.randint(1, 3), rng.randint(1, 3)).eval().requires_grad_(False)
    fast = rt.compile(model, (torch.randn(2, 6), torch.randn(2, 6)), strict=True)
    taken = set()
    for _ in range(30):
        given = torch.randn(2, 6), torch.randn(2, 6) * 2
        want, got = model(*given), fast(*given)
        taken.add(bool(given[1].sum() > model.limit))
        for a, b in zip(pytree.tree_leaves(got), pytree.tree_leaves(want), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert taken == {True, False}


def test_whole_numbers_and_a_nan_that_is_not_taken() -> None:
    class Counts(nn.Module):
        def root(self, x: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
            return torch.sqrt(x), n + 1

        def zero(self, x: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
            return x * 0, n * 2

        def forward(self, x: Tensor, n: Tensor) -> Any:
            return torch.cond((x >= 0).all(), self.root, self.zero, (x, n))

    given = torch.rand(3, 5), torch.arange(15).reshape(3, 5)
    fast = rt.compile(Counts().eval(), given, strict=True)
    for x in (given[0], -given[0], given[0] - 0.5):
        for a, b in zip(fast(x, given[1]), Counts()(x, given[1])):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)
            assert torch.isfinite(a).all()
