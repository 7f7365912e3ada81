"""Results that lie over the input that they change in a part: random programs of slices that are written, against torch."""

from __future__ import annotations

import random
import re

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt


class Writes(nn.Module):
    """Buffers that are computed, then written in slices. Old ones, and slices of them, are read at any time afterwards.

    All of it is exact in float32: products with powers of two, and sums of small integers.
    """

    def __init__(self, seed: int, shape: tuple[int, int], writes: int) -> None:
        super().__init__()
        self.seed, self.shape, self.writes = seed, shape, writes

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        draw = random.Random(self.seed)
        known, kept = [x * 2, x + 1], []
        for _ in range(self.writes):
            old = draw.choice(known[-2:])
            new = old.clone()
            dim = draw.choice((1, 2))
            size = self.shape[dim - 1]
            length = draw.randint(1, size - 1)
            start, step = draw.randint(0, size - length), draw.choice((1, 1, 2))
            to = [slice(None)] * 3
            to[dim] = slice(start, start + length, step)
            source = draw.choice([*known, old])
            at = draw.randint(0, size - length)
            part = [slice(None)] * 3
            part[dim] = slice(at, at + length, step)
            how = draw.randrange(4)
            if how == 0:
                new[tuple(to)] = source[tuple(part)]  # of itself too, at another place
            elif how == 1:
                new[tuple(to)].add_(source[tuple(part)])
            elif how == 2:
                new[tuple(to)] = 3.0
            else:
                new[tuple(to)] = source[tuple(part)] * 0.5 + new[tuple(to)]
            if draw.random() < 0.3:
                kept.append(old[:, : draw.randint(1, self.shape[0])] + 1)  # a view that is read after the write
            known.append(new)
        return (known[-1] + 0.5, known[-2] * 2, *kept)


@pytest.mark.parametrize("seed", range(24))
def test_equals_torch(seed: int) -> None:
    draw = random.Random(seed)
    shape = (draw.choice((2, 5, 16, 33)), draw.choice((1, 3, 8, 9, 16, 17, 64)))
    shape = (shape[0], max(shape[1], 2))
    model = Writes(seed, shape, draw.randint(1, 6)).eval()
    x = torch.randint(-8, 8, (2, *shape)).float()
    fast = rt.compile(model, x, verify=False)
    for given in (x, torch.randint(-8, 8, (2, *shape)).float()):
        for got, want in zip(fast(given), model(given), strict=True):
            assert torch.equal(got, want)


class Chain(nn.Module):
    """One buffer, a row of which is written by each step."""

    def forward(self, x: Tensor) -> Tensor:
        y = x * 2
        for i in range(1, 12):
            y = y.clone()
            y[:, i] = y[:, i - 1] * 0.5 + y[:, i]
        return y + 1


def scratch_bytes(rows: int, width: int) -> int:
    """What a plan of the chain asks for, beside what its stages need to compute."""
    x = torch.randn(1, rows, width)
    model = Chain().eval()
    fast = rt.compile(model, x, verify=False)
    torch.testing.assert_close(fast(x), model(x))
    found = re.search(r"scratch (\d+) B", str(fast.explain()))
    assert found is not None
    return int(found[1])


@pytest.mark.parametrize("width", [8, 48])
def test_a_chain_takes_the_memory_of_one(width: int) -> None:
    more = scratch_bytes(128, width) - scratch_bytes(64, width)
    assert more < 1.5 * 64 * width * 4  # of two buffers it would be twice
