"""Rearrange: against permute, reshape and slices of torch; bits alone, samples apart; tables that do not fit."""

from __future__ import annotations

import itertools
import math
import random

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt
from rtaccel.core.registry import operator
from rtaccel.core.stage import Stage, Value
from tests.support.one_stage import (
    NAN,
    check_no_samples,
    check_same,
    check_samples_apart,
    compiled_both,
)


def stage_of(x: tuple[int, int], y: tuple[int, int], **attrs: tuple[int, ...]) -> Stage:
    """x, y: (steps, width)."""
    values = Value("x", x[1], steps=x[0]), Value("y", y[1], steps=y[0])
    return Stage("rearrange", "r", values[:1], values[1:], {}, attrs)


def table_of(order: Tensor) -> tuple[int, ...]:
    return tuple(order.flatten().tolist())


@pytest.mark.parametrize("order", list(itertools.permutations((1, 2, 3))), ids=str)
@pytest.mark.parametrize("sizes", [(2, 3, 5), (1, 17, 4), (6, 1, 33)], ids=str)
def test_permute(sizes: tuple[int, int, int], order: tuple[int, int, int]) -> None:
    """An image [a, b, c] as rows of its last axis, before and after."""
    x = torch.randn(3, *sizes)
    want = x.permute(0, *order)
    table = torch.arange(sizes[0] * sizes[1] * sizes[2]).reshape(1, *sizes).permute(0, *order)
    shapes = [(t.shape[1] * t.shape[2], t.shape[3]) for t in (x, want)]
    stage = stage_of(*shapes, index=table_of(table))
    given, wanted = (t.reshape(3, *v.shape) for t, v in zip((x, want), (*stage.inputs, *stage.outputs)))
    check_same(stage, (given.contiguous(),), (wanted.contiguous(),))


@pytest.mark.parametrize(("x", "y"), [((6, 5), (2, 15)), ((4, 9), (1, 36)), ((1, 36), (12, 3)), ((7, 5), (5, 7))])
def test_reshape(x: tuple[int, int], y: tuple[int, int]) -> None:
    """Rows of another length hold the elements in the order that they had."""
    stage = stage_of(x, y, index=tuple(range(x[0] * x[1])))
    data = torch.randn(4, *stage.inputs[0].shape)
    check_same(stage, (data,), (data.reshape(4, *stage.outputs[0].shape),))


@pytest.mark.parametrize("part", [slice(None, None, 2), slice(-1, None), slice(2, 5), slice(0, 1)], ids=str)
def test_rows_of_a_window(part: slice) -> None:
    data = torch.randn(3, 7, 19)
    rows = tuple(range(7))[part]
    stage = stage_of((7, 19), (len(rows), 19), rows=rows)
    check_same(stage, (data,), (data[:, part].reshape(3, *stage.outputs[0].shape),))


def test_rows_in_any_order_and_more_than_once() -> None:
    data, rows = torch.randn(2, 4, 3), (3, 0, 0, 2, 3)
    check_same(stage_of((4, 3), (5, 3), rows=rows), (data,), (data[:, list(rows)],))
    index = (11, 0, 0, 7)
    check_same(stage_of((4, 3), (2, 2), index=index), (data,), (data.flatten(1)[:, list(index)].reshape(2, 2, 2),))


def test_samples_are_apart() -> None:
    for stage in (stage_of((5, 3), (3, 5), index=tuple(range(15))), stage_of((5, 3), (2, 3), rows=(4, 1))):
        check_samples_apart(stage, (torch.randn(4, 5, 3),))
        check_no_samples(stage)
    data = torch.tensor([[[NAN, -0.0]]]).reshape(1, 2)
    check_same(stage_of((1, 2), (1, 2), index=(1, 0)), (data,), (data.flip(1),))


class Turned(nn.Module):
    """A layer over the steps instead of the columns, and back."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(7, 33)  # of few outputs it would be a convolution over planes

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.head(x.permute(0, 2, 1))).permute(0, 2, 1)


def test_compiled() -> None:
    model = Turned()
    native, plain, found = compiled_both(model, (torch.randn(2, 7, 5),))
    assert "rearrange" in found
    for rows in (0, 1, 2, 9):
        x = torch.randn(rows, 7, 5)
        for fast in (native, plain):
            torch.testing.assert_close(fast(x), model(x).detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        (stage_of((4, 3), (2, 3), rows=(0, 4)), r"2 of 0\.\.3"),
        (stage_of((4, 3), (2, 3), rows=(0, -1)), r"2 of 0\.\.3"),
        (stage_of((4, 3), (2, 3), rows=(0, 1, 2)), "got 3 indices; expected 2"),
        (stage_of((4, 3), (2, 2), rows=(0, 1)), "got 2 indices"),
        (stage_of((4, 3), (1, 2), index=(0, 12)), r"2 of 0\.\.11"),
        (stage_of((4, 3), (1, 2), index=(0,)), "got 1 indices; expected 2"),
    ],
)
def test_tables_that_do_not_fit(stage: Stage, words: str) -> None:
    with pytest.raises(rt.ShapeError, match=f"rearrange: .*{words}"):
        operator("rearrange").lower(stage)


def _parts(seed: int) -> tuple[Tensor, tuple[int, int], tuple[int, int]]:
    """Elements of an image that is cut, turned, reversed and repeated anyhow, and the rows of before and after."""
    rng = random.Random(seed)
    sizes = [rng.choice((1, 2, 3, 4, 5, 8, 16, 17)) for _ in range(rng.randint(2, 4))]
    table = torch.arange(math.prod(sizes)).reshape(sizes)
    steps, width = math.prod(sizes[:-1]), sizes[-1]
    for d in range(table.dim()):
        start = rng.choice((0, 0, 0, rng.randrange(table.shape[d])))
        table = table.narrow(d, start, rng.randint(1, table.shape[d] - start) if start else table.shape[d])
        if rng.random() < 0.15:
            table = table.flip(d)
    table = table.permute(*rng.sample(range(table.dim()), table.dim()))
    if rng.random() < 0.3:
        table = table.unsqueeze(-1).expand(*table.shape, rng.choice((2, 7, 16)))
    own = table.shape[-1] if rng.random() < 0.7 else rng.choice([n for n in range(1, 40) if table.numel() % n == 0])
    return table.reshape(-1), (steps, width), (table.numel() // own, own)


@pytest.mark.parametrize("seed", range(80))
def test_random_parts(seed: int) -> None:
    table, x, y = _parts(seed)
    data = torch.randn(3, x[0] * x[1])
    stage = stage_of(x, y, index=table_of(table))
    check_same(stage, (data.reshape(3, *stage.inputs[0].shape),), (data[:, table].reshape(3, *stage.outputs[0].shape),))


@pytest.mark.parametrize("seed", range(12))
def test_matrices_whose_rows_share_sets_of_a_cache(seed: int) -> None:
    """Rows a power of two apart go in other blocks than others do."""
    rng = random.Random(seed)
    rows = rng.choice((256, 512, 1024, 1536, 2048)) + rng.choice((0, 0, 0, 1, 4))
    columns = rng.choice((5, 16, 64, 72, 256)) + rng.choice((0, 0, 3, 4))
    if rng.random() < 0.4:
        rows, columns = columns, rows
    data = torch.randn(2, rows, columns)
    stage = stage_of((rows, columns), (columns, rows), index=table_of(torch.arange(rows * columns).reshape(rows, -1).T))
    check_same(stage, (data,), (data.transpose(1, 2).contiguous(),))
