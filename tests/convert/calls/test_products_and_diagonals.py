"""tensordot, written diagonals, and einsum with dots of several ranks: random shapes, native, as torch has them."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt


class Drawn(nn.Module):
    def __init__(self, draw: random.Random, kind: str, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.kind, rank = kind, len(shape) + 1
        self.dims: list[list[int]] = [[], []]
        self.offset = 0
        if kind == "tensordot":
            own = draw.sample(range(1, rank), draw.randint(1, rank - 1))
            sizes = [draw.randint(1, 4) for _ in range(draw.randint(0, 2))] + [shape[d - 1] for d in own]
            order = draw.sample(range(len(sizes)), len(sizes))
            weight = torch.randn([sizes[i] for i in order])
            places = [order.index(len(sizes) - len(own) + i) for i in range(len(own))]
            self.dims = [[d - draw.choice([0, rank]) for d in own], places]
        elif kind == "diagonal":
            one, two = draw.sample(range(1, rank), 2)
            self.dims, self.offset = [[one, two]], draw.randint(1 - shape[one - 1], shape[two - 1] - 1)
            weight = torch.randn(torch.zeros(2, *shape).diagonal(self.offset, one, two).shape[1:])
        else:
            weight = torch.randn(draw.randint(1, 4), shape[-1])
        self.weight = nn.Parameter(weight)

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "tensordot":
            return torch.tensordot(x, self.weight, (self.dims[0], self.dims[1]))
        if self.kind == "diagonal":
            made = x * 2
            made.diagonal(self.offset, *self.dims[0]).copy_(self.weight.expand(len(x), *self.weight.shape))
            return made
        return torch.einsum("ij,...j->...i", self.weight, x)


@pytest.mark.parametrize("kind", ["tensordot", "diagonal", "einsum"])
@pytest.mark.parametrize("seed", range(8))
def test_random_shapes(kind: str, seed: int) -> None:
    draw = random.Random(seed * 7 + len(kind))
    torch.manual_seed(seed)
    shape = tuple(draw.randint(2, 5) for _ in range(draw.randint(2, 3)))
    model = Drawn(draw, kind, shape).eval()
    fast = rt.compile(model, (torch.randn(2, *shape),), strict=True)
    x = torch.randn(2, *shape)
    want = model.double()(x.double()).detach()
    torch.testing.assert_close(fast(x).double(), want, rtol=1e-5, atol=1e-5)
