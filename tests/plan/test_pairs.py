"""Distances in one pass: whatever dimensions two operands have and in which order, the numbers are those of the model."""

from __future__ import annotations

import random
from collections.abc import Callable
from math import prod

import pytest
import torch
from torch import Tensor

from tests.support.networks.call import CallOfTwo
from tests.support.one_stage import compiled_both

JOINS: dict[str, Callable[[Tensor, list[int]], Tensor]] = {
    "sum of squares": lambda off, dims: off.square().sum(dims),
    "mean of squares": lambda off, dims: (off * off).mean(dims),
    "sum": lambda off, dims: off.abs().sum(dims),
    "squares of sizes": lambda off, dims: off.abs().square().sum(dims),
    "largest": lambda off, dims: off.abs().amax(dims),
    "norm": lambda off, dims: off.square().sum(dims).sqrt(),
}


def random_call(seed: int) -> tuple[Callable[[Tensor, Tensor], Tensor], tuple[int, ...], tuple[int, ...], str]:
    """A join over some dimensions of the difference of two operands that have some of them each, stored in any order."""
    draw = random.Random(seed)
    rank = draw.randint(2, 5)
    sizes = [draw.choice((1, 2, 3, 4, 5, 7)) for _ in range(rank)]
    has = [draw.choice(("both", "a", "b")) for _ in range(rank)]
    over = sorted(draw.sample(range(rank), draw.randint(1, max(1, rank - 2))))
    for d in over:
        has[d] = draw.choice(("both", "both", "both", has[d]))
    orders = [draw.sample(range(rank), rank) for _ in range(2)]
    shapes = [tuple(sizes[d] if has[d] in ("both", own) else 1 for d in order) for own, order in zip("ab", orders)]
    begins = [tuple(draw.choice((0, 0, 0, 1)) for _ in range(rank)) for _ in range(2)]  # parts of what is given
    given = [tuple(n + b for n, b in zip(shape, begin)) for shape, begin in zip(shapes, begins)]
    name = draw.choice(list(JOINS))
    kept = [d for d in range(rank) if d not in over]
    turned = draw.sample(range(len(kept)), len(kept))

    def call(a: Tensor, b: Tensor) -> Tensor:
        sides = []
        for x, order, begin in zip((a, b), orders, begins):
            part = x[(slice(None), *(slice(first, None) for first in begin))]
            sides.append(part.permute(0, *(1 + order.index(d) for d in range(rank))))
        joined = JOINS[name](sides[0] - sides[1], [1 + d for d in over])
        return joined.permute(0, *(1 + t for t in turned))

    return call, given[0], given[1], f"{name} {sizes} {has} over {over}"


@pytest.mark.parametrize("first", range(0, 120, 10))
def test_any_dimensions_in_any_order(first: int) -> None:
    joined = 0
    for seed in range(first, first + 10):
        call, a_shape, b_shape, text = random_call(seed)
        example = torch.randn(2, *a_shape), torch.randn(2, *b_shape)
        native, plain, found = compiled_both(CallOfTwo(call).eval(), example)
        joined += "pairwise" in found
        for rows in (1, 3):
            a, b = torch.randn(rows, *a_shape), torch.randn(rows, *b_shape)
            want = call(a.double(), b.double())
            for fast in (native, plain):
                torch.testing.assert_close(
                    fast(a, b).double(), want, rtol=5e-6, atol=5e-6, msg=lambda m, text=text: f"{text}: {m}"
                )
    assert joined >= 1


def test_most_pairs_are_found() -> None:
    """Of calls with at least four rows that one operand alone has, in the last place."""
    found = []
    for seed in range(60):
        draw = random.Random(seed)
        i, j, k = draw.randint(1, 9), draw.randint(4, 19), draw.randint(2, 9)
        join = JOINS[draw.choice([name for name in JOINS if name != "norm"])]

        def call(a: Tensor, b: Tensor, join: Callable[[Tensor, list[int]], Tensor] = join) -> Tensor:
            return join(a[:, :, None] - b[:, None], [3])

        example = torch.randn(2, i, k), torch.randn(2, j, k)
        found.append("pairwise" in compiled_both(CallOfTwo(call).eval(), example)[2])
        assert prod(example[0].shape) == 2 * i * k
    assert sum(found) >= 55
