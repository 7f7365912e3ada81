"""Samples that are joined with heads, in front of them or behind: `(b h)` and `(h b)` are other rows of a product."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt

Join = Callable[[Tensor, int], Tensor]
JOINS: dict[str, Join] = {
    "samples first": lambda x, h: x.unflatten(-1, (h, -1)).permute(0, 2, 1, 3).flatten(0, 1),
    "heads first": lambda x, h: x.unflatten(-1, (h, -1)).permute(2, 0, 1, 3).flatten(0, 1),
    "heads of steps first": lambda x, h: x.view(x.shape[0], h, x.shape[1], -1).permute(1, 0, 2, 3).flatten(0, 1),
}
PARTS: dict[str, Join] = {
    "samples first": lambda y, h: y.view(-1, h, *y.shape[1:]).transpose(1, 2).flatten(2),
    "heads first": lambda y, h: y.view(h, -1, *y.shape[1:]).permute(1, 2, 0, 3).flatten(2),
    "one after the other": lambda y, h: torch.cat([y.view(h, -1, *y.shape[1:])[i] for i in range(h)], -1),
    "as it is": lambda y, h: y,
    "twice": lambda y, h: y * 2,
}


class Attention(nn.Module):
    def __init__(self, width: int, heads: int, joins: tuple[Join, Join, Join], apart: Join, soft: bool) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        self.heads, self.joins, self.apart, self.soft = heads, joins, apart, soft

    def forward(self, x: Tensor) -> Tensor:
        layers = (self.q, self.k, self.v)
        q, k, v = (join(layer(x), self.heads) for join, layer in zip(self.joins, layers))
        scores = q @ k.transpose(1, 2) / 3
        scores = scores.softmax(-1) if self.soft else scores
        return self.apart(scores @ v, self.heads)


@pytest.mark.parametrize(("apart", "soft"), list(itertools.product(PARTS, (True, False))))
@pytest.mark.parametrize("join", JOINS)
def test_both_orders_are_the_models(join: str, apart: str, soft: bool) -> None:
    g = random.Random(f"{join} {apart} {soft}")
    heads, depth, steps = g.randint(2, 4), g.randint(2, 5), g.randint(2, 7)
    model = Attention(heads * depth, heads, (JOINS[join],) * 3, PARTS[apart], soft).eval()
    fast = rt.compile(model, (torch.randn(2, steps, heads * depth),), verify=False)
    for batch in (1, 2, 5):
        x = torch.randn(batch, steps, heads * depth)
        torch.testing.assert_close(fast(x), model(x).detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("seed", range(6))
def test_other_orders_of_keys_than_of_queries(seed: int) -> None:
    """Rows of one sample then meet those of another, and heads meet other heads."""
    g = random.Random(seed)
    heads, depth, steps = g.randint(2, 4), g.randint(2, 5), g.randint(2, 7)
    joins = g.choice([j for j in itertools.product(JOINS, repeat=3) if len({*j}) > 1])
    model = Attention(heads * depth, heads, tuple(JOINS[j] for j in joins), PARTS["twice"], bool(seed % 2)).eval()  # type: ignore[arg-type]
    fast = rt.compile(model, (torch.randn(3, steps, heads * depth),), verify=False)
    x = torch.randn(3, steps, heads * depth)
    torch.testing.assert_close(fast(x), model(x).detach(), rtol=1e-4, atol=1e-5)
