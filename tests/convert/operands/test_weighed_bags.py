"""Bags of rows that are weighed, or leave one row out, natively: as torch joins them."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import rtaccel as rt


class Bags(nn.Module):
    def __init__(self, rows: int, **how: Any) -> None:
        super().__init__()
        self.table, self.how = nn.Parameter(torch.randn(rows, 5)), how

    def forward(self, index: Tensor, weights: Tensor | None = None) -> Tensor:
        return F.embedding_bag(index, self.table, per_sample_weights=weights, **self.how)


class Flat(Bags):
    """The same with the places where bags begin, as older models write it."""

    def forward(self, index: Tensor, weights: Tensor | None = None) -> Tensor:
        starts = torch.arange(0, index.numel(), index.shape[1])
        given = None if weights is None else weights.reshape(-1)
        return F.embedding_bag(index.reshape(-1), self.table, starts, per_sample_weights=given, **self.how)


@pytest.mark.parametrize("seed", range(16))
def test_as_torch(seed: int) -> None:
    draw = random.Random(seed)
    torch.manual_seed(seed)
    mode, rows, size = draw.choice(("sum", "sum", "mean", "max")), draw.randint(2, 12), draw.randint(1, 6)
    weighed = mode == "sum" and draw.random() < 0.7
    left_out = draw.choice((None, 0, rows - 1, -1)) if weighed else draw.randrange(rows)
    model = draw.choice((Bags, Flat))(rows, mode=mode, padding_idx=left_out).eval()
    with torch.no_grad():
        model.table[0] *= draw.choice((1.0, float("nan"), float("inf")))

    def inputs(count: int) -> tuple[Tensor, ...]:
        index = torch.randint(0, rows, (count, size))
        if left_out is not None and draw.random() < 0.5:
            index[0] = left_out % rows  # a bag of nothing
        return (index, torch.randn(count, size)) if weighed else (index,)

    fast = rt.compile(model, inputs(3), strict=True)
    for count in (1, 3, 7):
        given = inputs(count)
        torch.testing.assert_close(fast(*given), model(*given), rtol=1e-5, atol=1e-6, equal_nan=True)


def test_bags_of_several_sizes_stay() -> None:
    class Several(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.randn(9, 4))

        def forward(self, index: Tensor, starts: Tensor, weights: Tensor) -> Tensor:
            return F.embedding_bag(index, self.table, starts, per_sample_weights=weights, mode="sum")

    model = Several().eval()
    given = torch.randint(0, 9, (8,)), torch.tensor([0, 3, 3, 5]), torch.randn(8)
    with pytest.warns(rt.FallbackWarning, match="embedding_bag"):
        fast = rt.compile(model, given)
    torch.testing.assert_close(fast(*given), model(*given))
