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


@pytest.mark.filterwarnings("ignore::rtaccel.core.errors.FallbackWarning")
@pytest.mark.parametrize("seed", range(40))
def test_a_random_program_of_writes_equals_torch(seed: int) -> None:
    torch.manual_seed(seed)
    model, x = Writes(random.Random(seed)).eval(), torch.randn(3, 5, 6)
    fast = rt.compile(model, (x,), strict=model.start == "x")  # what depends on no input may fall back
    for own in (x, torch.randn(3, 5, 6), torch.randn(1, 5, 6)):
        for got, want in zip(fast(own), model(own), strict=True):
            torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)


class NestedWrites(nn.Module):
    """Slices of slices are written, each level in another dimension or in the same one; some of it over what lies there."""

    def __init__(self, draw: random.Random) -> None:
        super().__init__()
        self.start = draw.choice(("zeros", "x", "constant"))
        self.writes = [self._write(draw) for _ in range(draw.randint(1, 8))]

    @staticmethod
    def _write(draw: random.Random) -> tuple[str, list[tuple[int, slice | int]]]:
        shape, levels = [4, 6, 5], []
        for _ in range(draw.randint(1, 4)):
            dim = draw.randrange(len(shape))
            size = shape[dim]
            if draw.random() < 0.3 and len(shape) > 1:
                levels.append((dim, draw.randrange(size)))
                del shape[dim]
                continue
            start = draw.randrange(size)
            stop, step = draw.randint(start + 1, size), draw.choice((1, 1, 1, 2))
            levels.append((dim, slice(start, stop, step)))
            shape[dim] = len(range(start, stop, step))
        return draw.choice(("x", "add", "number", "own")), levels

    def forward(self, x: Tensor) -> Tensor:
        y = (
            x * 1.0
            if self.start == "x"
            else torch.full_like(x, 2.0)
            if self.start == "constant"
            else torch.zeros_like(x)
        )
        for kind, levels in self.writes:
            part, source = y, x
            for dim, at in levels:
                index = (*([slice(None)] * (dim + 1)), at)
                part, source = part[index], source[index]
            if kind == "add":
                part += source
            else:
                part[...] = 3.0 if kind == "number" else part * 0.5 if kind == "own" else source
        return y


@pytest.mark.filterwarnings("ignore::rtaccel.core.errors.FallbackWarning")
@pytest.mark.parametrize("seed", range(24))
def test_slices_of_slices_are_written_where_they_end_up(seed: int) -> None:
    torch.manual_seed(seed)
    model, x = NestedWrites(random.Random(seed)).eval(), torch.randn(2, 4, 6, 5)
    fast = rt.compile(model, (x,))
    for own in (x, torch.randn(2, 4, 6, 5), torch.randn(1, 4, 6, 5)):
        torch.testing.assert_close(fast(own), model(own), rtol=1e-6, atol=1e-6)


def test_tiles_are_put_together_once() -> None:
    class Tiles(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = torch.zeros(x.shape[0], 12, 12)
            for i in range(0, 12, 4):
                for j in range(0, 12, 4):
                    y[:, i : i + 4][:, :, j : j + 4] = torch.tanh(x[:, j : j + 4, i : i + 4])
            return y

    model, x = Tiles().eval(), torch.randn(2, 12, 12)
    fast = rt.compile(model, (x,), strict=True)
    torch.testing.assert_close(fast(x), model(x), rtol=1e-5, atol=1e-6)
    assert sum("assemble(" in line for line in fast.explain(measure=False).splitlines()) == 1


class Loop(nn.Module):
    def __init__(self, most: float) -> None:
        super().__init__()
        self.cell, self.most = nn.GRUCell(4, 6), most

    def forward(self, x: Tensor) -> Tensor:
        h, y = torch.zeros(x.shape[0], 6), torch.zeros(x.shape[0], x.shape[1], 6)
        for t in range(x.shape[1]):
            h = self.cell(x[:, t], h)
            h = h if self.most == 1.0 else h.clamp(-self.most, self.most)
            y[:, t] = h
        return y


@pytest.mark.parametrize("most", [0.2, 1.0])
@pytest.mark.parametrize("steps", [1, 7, 40])
def test_what_a_loop_writes_is_put_together_once(steps: int, most: float) -> None:
    """Or is the result of one layer, where its cell is one."""
    torch.manual_seed(steps)
    model, x = Loop(most).eval(), torch.randn(2, steps, 4)
    fast = rt.compile(model, (x,), strict=True)
    torch.testing.assert_close(fast(x), model(x), rtol=1e-5, atol=1e-6)
    stages = fast.explain(measure=False).splitlines()
    is_layer = steps > 1 and most == 1.0
    assert sum("assemble(" in line for line in stages) == (steps > 1 and not is_layer)
    assert sum("gru(" in line for line in stages) == (1 if is_layer else steps), stages
