"""`nonzero`, `unique` and masks over numbers that no input changes: what is picked by them has known sizes and is native."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt

WIDTH = 8
WAYS = ("unbound", "counted", "masked", "split by a mask", "written by a mask", "repeated")


class Picked(nn.Module):
    """A layer whose columns are picked by a mask, which may be of the shape of an input."""

    def __init__(self, ways: list[str], of_input: bool, seed: int) -> None:
        super().__init__()
        self.linear, self.ways, self.of_input = nn.Linear(WIDTH, WIDTH), ways, of_input
        mask = torch.rand(WIDTH, generator=torch.Generator().manual_seed(seed)) < 0.5
        mask[1], mask[5] = True, False
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        mask = torch.ones_like(x[0]).bool() & self.mask if self.of_input else self.mask
        y = self.linear(x)
        for way in self.ways:
            if way == "unbound":
                y = y + sum(x[:, i] for i in mask.nonzero().unbind(0))  # type: ignore[operator]
            elif way == "counted":
                values, counts = torch.unique(mask.long(), return_counts=True)
                y = y * counts[0] + values.sum()
            elif way == "masked":
                y = y + self.linear.bias.masked_select(mask).sum()
            elif way == "split by a mask":
                y = torch.cat([y[:, mask], -y[:, ~mask]], 1)
            elif way == "repeated":
                each = mask.long() * 2
                y = y + x.repeat_interleave(each, 1).repeat_interleave(torch.tensor([2]), dim=1)[:, :1]
                y = y + x[0].repeat_interleave(each).sum() + x.repeat_interleave(torch.tensor(2)).sum()
            else:
                y = y.clone()
                y[:, mask] = x[:, mask] * 2
        return y


@pytest.mark.parametrize("seed", range(12))
def test_sizes_that_no_input_changes(seed: int) -> None:
    draw = random.Random(seed)
    ways, of_input = draw.sample(WAYS, draw.choice([1, 2, 3])), draw.random() < 0.5
    torch.manual_seed(seed)
    model = Picked(ways, of_input, seed).eval()
    fast = rt.compile(model, (torch.randn(2, WIDTH),), strict=True)
    x = torch.randn(2, WIDTH)
    torch.testing.assert_close(fast(x), model(x), rtol=1e-5, atol=1e-5)


def test_a_mask_that_is_written_first() -> None:
    """What is written into a constant by a call is in it."""

    class Written(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            mask = torch.zeros(WIDTH)
            mask[2], mask[4:6] = 1.0, 1.0
            rows = mask.nonzero()[:, 0]
            return torch.stack([x[:, int(i)] for i in rows.unique()], 1) * 2.0

    model, x = Written().eval(), torch.randn(2, WIDTH)
    assert torch.equal(rt.compile(model, (x,), strict=True)(x), x[:, [2, 4, 5]] * 2.0)
