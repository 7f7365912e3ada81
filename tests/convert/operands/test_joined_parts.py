"""Heads behind one another as samples, by `cat` and `split`, and constants that depend on how many samples there are."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt

BATCHES = (1, 2, 3, 7)


def check_any_batch(model: nn.Module, shape: tuple[int, ...], verify: bool = True) -> None:
    """Native, for any number of samples."""
    fast = rt.compile(model, (torch.randn(3, *shape),), strict=True, verify=verify)
    for batch in BATCHES:
        x = torch.randn(batch, *shape)
        with torch.no_grad():
            torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-5, msg=str(batch))


class SetAttention(nn.Module):
    """The attention block of set transformers. way: how its heads come apart; residual: as there, of the queries."""

    def __init__(self, heads: int, size: int, way: str, residual: bool) -> None:
        super().__init__()
        self.heads, self.size, self.way, self.residual = heads, size, way, residual
        self.q, self.k, self.v, self.o = (nn.Linear(heads * size, heads * size) for _ in range(4))

    def apart(self, y: Tensor) -> Tensor:
        if self.way == "columns":
            return torch.cat([y[..., h * self.size : (h + 1) * self.size] for h in range(self.heads)], 0)
        parts = y.split(self.size, -1) if self.way == "split" else y.chunk(self.heads, 2)
        return torch.cat(parts, 0)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (self.apart(layer(x)) for layer in (self.q, self.k, self.v))
        w = torch.softmax(q.bmm(k.transpose(1, 2)) / math.sqrt(self.heads * self.size), 2)
        y = w.bmm(v) + q if self.residual else w.bmm(v)
        parts = y.chunk(self.heads, 0) if self.way == "chunk" else y.split(x.shape[0], 0)
        made: Tensor = self.o(torch.cat(parts, 2))
        return made


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("way", ["split", "chunk", "columns"])
@pytest.mark.parametrize(("heads", "size", "steps"), [(2, 4, 5), (3, 5, 1), (4, 3, 9)])
def test_heads_behind_one_another(heads: int, size: int, steps: int, way: str, residual: bool) -> None:
    torch.manual_seed(heads)
    check_any_batch(SetAttention(heads, size, way, residual).eval(), (steps, heads * size))


class Passes(nn.Module):
    """A layer over several inputs at once, as networks that share their weights have it."""

    def __init__(self, turned: bool) -> None:
        super().__init__()
        self.first, self.second, self.shared = (
            nn.Linear(6, 4),
            nn.Linear(6, 4),
            nn.Sequential(nn.Linear(4, 5), nn.Tanh()),
        )
        self.turned = turned

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.first(x), self.second(x), self.first(-x)]
        a, b, c = self.shared(torch.cat(parts, 0)).split(x.shape[0])
        made: Tensor = (b * c - a) if self.turned else torch.cat([c, a], 1) * torch.cat([b, b], 1)
        return made


@pytest.mark.parametrize("turned", [True, False])
def test_one_layer_over_several_values(turned: bool) -> None:
    torch.manual_seed(int(turned))
    check_any_batch(Passes(turned).eval(), (6,))


COUNTED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "deviation": lambda x, c: x * c.std(),
    "divided": lambda x, c: torch.cat([x, c / c.std()], 1),
    "variance": lambda x, c: x + c.var(),
    "sum": lambda x, c: x + c.sum(),
    "norm": lambda x, c: x / (1 + c.norm()),
    "number": lambda x, c: x * torch.full((), x.shape[0]),
}


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("name", COUNTED)
def test_what_depends_on_the_number_of_samples_is_no_constant(name: str, verify: bool) -> None:
    """Of a tensor that is repeated for each sample: right for every batch, or refused for others than the example's."""

    class Model(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            c = torch.linspace(-1, 2, x.shape[2]).repeat(x.shape[0], 1, 1)
            return COUNTED[name](x, c)

    fast = rt.compile(Model().eval(), (torch.randn(3, 4, 6),), verify=verify)
    for batch in BATCHES:
        x = torch.randn(batch, 4, 6)
        try:
            got = fast(x)
        except rt.ShapeError:
            assert batch != 3
            continue
        torch.testing.assert_close(got, Model()(x), rtol=1e-5, atol=1e-5, msg=str(batch))


class Learned(nn.Module):
    """Learned queries ask the steps of each sample."""

    def __init__(self, heads: int, queries: int, batch_first: bool, weights: bool) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(heads * 4, heads, batch_first=batch_first)
        self.queries, self.weights, self.batch_first = (
            nn.Parameter(torch.randn(1, queries, heads * 4)),
            weights,
            batch_first,
        )

    def forward(self, x: Tensor) -> Tensor:
        q = self.queries.expand(x.shape[0], -1, -1)
        if not self.batch_first:
            q, x = q.transpose(0, 1), x.transpose(0, 1)
        made: Tensor = self.attention(q, x, x, need_weights=self.weights)[0]
        return made if self.batch_first else made.transpose(0, 1)


@pytest.mark.parametrize("weights", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize(("heads", "queries"), [(1, 1), (2, 3), (3, 1), (4, 5)])
def test_learned_queries(heads: int, queries: int, batch_first: bool, weights: bool) -> None:
    """They are the same for each sample, and lie beside the heads of it."""
    torch.manual_seed(heads)
    check_any_batch(Learned(heads, queries, batch_first, weights).eval(), (6, heads * 4))
