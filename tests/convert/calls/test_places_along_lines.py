"""Calls along a dimension natively: running extremes with their places, modes, rows that are joined by an index."""

from __future__ import annotations

import random
from math import nan
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt
from tests.support.networks.call import Call

DTYPES = (torch.float32, torch.int64, torch.int32, torch.int16, torch.uint8, torch.bool)


def numbers(draw: random.Random, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """With equal ones, and among real numbers NaN and infinities."""
    x = torch.randint(0, draw.choice((2, 4, 50)), shape)
    if dtype != torch.float32:
        return x.to(dtype)
    real = x.float() - 3
    if draw.random() < 0.5:
        for value in (nan, float("inf"), -float("inf")):
            real[torch.rand(shape) < 0.08] = value
    return real


class Running(nn.Module):
    def __init__(self, call: Any, dim: int, reads: str) -> None:
        super().__init__()
        self.call, self.dim, self.reads = call, dim, reads

    def forward(self, x: Tensor) -> Any:
        found = self.call(x, self.dim)
        return tuple(found) if self.reads == "both" else getattr(found, self.reads)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("call", [torch.cummax, torch.cummin])
@pytest.mark.parametrize("seed", range(5))
def test_running_extremes(seed: int, call: Any, dtype: torch.dtype) -> None:
    draw = random.Random(seed)
    shape = tuple(draw.randint(1, 9) for _ in range(draw.randint(1, 3)))
    dim = draw.choice((1, -1, len(shape)))
    model = Running(call, dim, draw.choice(("both", "indices", "both"))).eval()
    fast = rt.compile(model, numbers(draw, (2, *shape), dtype), strict=True)
    for rows in (1, 2, 7):
        x = numbers(draw, (rows, *shape), dtype)
        check(fast(x), model(x))


@pytest.mark.parametrize("dtype", DTYPES[:4])
@pytest.mark.parametrize("seed", range(8))
def test_modes(seed: int, dtype: torch.dtype) -> None:
    """Without NaN, which torch sorts anywhere. Places of short lines; of long ones torch names any."""
    draw = random.Random(seed)
    long = seed % 2
    shape = (draw.randint(1, 4), draw.randint(20, 60) if long else draw.randint(1, 16))
    model = Running(torch.mode, -1, "values" if long else draw.choice(("both", "indices"))).eval()
    fast = rt.compile(model, torch.randint(-3, 4, (2, *shape)).to(dtype), strict=True)
    for rows in (1, 2, 7):
        x = torch.randint(-3, draw.choice((0, 4, 40)), (rows, *shape)).to(dtype)
        check(fast(x), model(x))


def test_places_of_modes_of_long_lines_stay() -> None:
    model = Running(torch.mode, 1, "both").eval()
    with pytest.warns(rt.FallbackWarning, match="mode"):
        fast = rt.compile(model, torch.randint(0, 3, (2, 40)))
    x = torch.randint(0, 3, (2, 40))
    check(fast(x), model(x))


@pytest.mark.filterwarnings("ignore:index_reduce")
@pytest.mark.parametrize("include", [False, True])
@pytest.mark.parametrize("reduce", ["prod", "mean", "amax", "amin"])
def test_rows_joined_by_an_index(reduce: str, include: bool) -> None:
    index = torch.tensor([3, 0, 3, 1, 0])

    def joined(x: Tensor) -> Tensor:
        return x[:, :4].index_reduce(1, index, x[:, 4:] * 2, reduce, include_self=include)

    model = Call(joined).eval()
    fast = rt.compile(model, torch.randn(2, 9, 3), strict=True)
    for rows in (1, 2, 5):
        x = torch.randn(rows, 9, 3)
        torch.testing.assert_close(fast(x), model(x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("p", [1.0, 2.0, 3.0, float("inf")])
def test_distances_of_pairs(p: float) -> None:
    model = Call(lambda x: torch.stack([torch.pdist(rows, p) for rows in x.unbind(0)])).eval()
    x = torch.randn(2, 6, 3)
    torch.testing.assert_close(rt.compile(model, x, strict=True)(x), model(x), rtol=2e-6, atol=1e-6)


def check(got: Any, want: Any) -> None:
    for a, b in zip(*(one if isinstance(one, tuple) else (one,) for one in (got, want)), strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
