"""A model compiled twice is the same both times, also where its code keeps what it found out in its first call."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt

ORDERS: dict[str, list[int]] = {}
"""What is kept is the library's, not the model's."""


class Chained(nn.Module):
    """A product of many factors in the order that costs least, which is worked out once for the shapes, as libraries for
    `einsum` do: it depends on the batch."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.factors = nn.ParameterList(torch.randn(a, b) / a**0.5 for a, b in itertools.pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        parts: list[Any] = [x, *self.factors]
        key = ",".join(str(tuple(p.shape)) for p in parts)
        if key not in ORDERS:
            ORDERS[key] = self._order([tuple(p.shape) for p in parts])
        for at in ORDERS[key]:
            parts[at : at + 2] = [parts[at] @ parts[at + 1]]
        return parts[0]

    @staticmethod
    def _order(shapes: list[Any]) -> list[int]:
        order = []
        while len(shapes) > 1:
            costs = [int(a[0]) * a[1] * b[1] for a, b in itertools.pairwise(shapes)]
            best = 0
            for i, cost in enumerate(costs):
                if cost < costs[best]:
                    best = i
            order.append(best)
            shapes[best : best + 2] = [(shapes[best][0], shapes[best + 1][1])]
        return order


def forms(fast: rt.CompiledModel) -> list[Any]:
    """What is computed: the operators, their shapes and numbers."""
    return [(s.op, [(v.steps, v.width) for v in (*s.inputs, *s.outputs)], dict(s.attrs)) for s in fast._program.stages]


@pytest.mark.parametrize("seed", range(8))
def test_the_order_of_a_product_is_kept(seed: int) -> None:
    draw = random.Random(seed)
    ORDERS.clear()
    model = Chained([draw.randint(2, 40) for _ in range(draw.randint(3, 6))]).eval()
    example = torch.randn(draw.choice((1, 2, 3)), model.factors[0].shape[0])
    with torch.no_grad():
        want = model(example)
    made = [rt.compile(model, example, strict=True) for _ in range(3)]
    assert len({str(fast.batch) for fast in made}) == 1
    assert all(forms(fast) == forms(made[0]) for fast in made)
    first = made[0](example)
    torch.testing.assert_close(first, want, rtol=1e-4, atol=1e-4)
    assert all(torch.equal(fast(example), first) for fast in made)
