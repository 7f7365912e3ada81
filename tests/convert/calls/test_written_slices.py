"""Results that are written part by part, `y[:, t] = ..`: one stage puts them together, whatever lies over what."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt


class Writes(nn.Module):
    """Parts of y are written one after the other: parts of x, functions of them, parts of y itself, and numbers."""

    def __init__(self, draw: random.Random) -> None:
        super().__init__()
        self.start = draw.choice(("zeros", "ones", "x"))
        self.steps = [self._step(draw) for _ in range(draw.randint(1, 9))]
        self.read = draw.randrange(12)

    @staticmethod
    def _step(draw: random.Random) -> tuple[str, int, int, int, int, int]:
        rows, columns = draw.randint(1, 4), draw.randint(1, 5)
        kind = draw.choice(("x", "relu", "y", "number", "row", "column"))
        return kind, rows, columns, draw.randint(0, 5 - rows), draw.randint(0, 6 - columns), draw.randint(1, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = x * 1.0 if self.start == "x" else getattr(torch, self.start)(x.shape)
        seen = x.sum(1)
        for at, (kind, rows, columns, top, left, step) in enumerate(self.steps):
            if kind == "row":
                y[:, top] = x[:, 4 - top] + at
            elif kind == "column":
                y[:, :, left] = x[:, :, 5 - left]
            elif kind == "number":
                y[:, top : top + rows, left : left + columns : step] = float(at)
            else:
                source = y.clone() if kind == "y" else torch.relu(x) if kind == "relu" else x
                part = source[:, 5 - rows - top : 5 - top, 6 - columns - left : 6 - left : step]
                y[:, top : top + rows, left : left + columns : step] = part
            if at == self.read:
                seen = y.sum(1)
        return y, seen


@pytest.mark.filterwarnings("ignore::rtaccel.runtime.fallback.FallbackWarning")
@pytest.mark.parametrize("seed", range(40))
def test_a_random_program_of_writes_equals_torch(seed: int) -> None:
    torch.manual_seed(seed)
    model, x = Writes(random.Random(seed)).eval(), torch.randn(3, 5, 6)
    fast = rt.compile(model, (x,), strict=model.start == "x")  # what depends on no input may fall back
    for own in (x, torch.randn(3, 5, 6), torch.randn(1, 5, 6)):
        for got, want in zip(fast(own), model(own), strict=True):
            torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)


class Loop(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        h, y = torch.zeros(x.shape[0], 6), torch.zeros(x.shape[0], x.shape[1], 6)
        for t in range(x.shape[1]):
            h = self.cell(x[:, t], h)
            y[:, t] = h
        return y


@pytest.mark.parametrize("steps", [1, 7, 40])
def test_what_a_loop_writes_is_put_together_once(steps: int) -> None:
    torch.manual_seed(steps)
    model, x = Loop().eval(), torch.randn(2, steps, 4)
    fast = rt.compile(model, (x,), strict=True)
    torch.testing.assert_close(fast(x), model(x), rtol=1e-5, atol=1e-6)
    assert sum("assemble(" in line for line in fast.explain(measure=False).splitlines()) == 1
