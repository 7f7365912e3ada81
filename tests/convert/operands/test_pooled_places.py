"""Where the largest elements of windows are, natively: NaN and equal ones too, as torch names them."""

from __future__ import annotations

import random
from math import inf, nan
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import rtaccel as rt
from tests.support.networks.call import Call

POOLS = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
ADAPTIVE = {1: F.adaptive_max_pool1d, 2: F.adaptive_max_pool2d, 3: F.adaptive_max_pool3d}


def images(draw: random.Random, shape: tuple[int, ...]) -> Tensor:
    """With equal ones, and often with several NaN and infinities in a window."""
    x = torch.randint(-2, 3, shape).float()
    share = draw.choice((0.0, 0.1, 0.4, 1.0))
    for value in draw.sample((nan, inf, -inf), draw.randint(1, 3)):
        x[torch.rand(shape) < share] = value
    return x


def compare(call: Any, draw: random.Random, shape: tuple[int, ...]) -> None:
    model = Call(call).eval()
    fast = rt.compile(model, images(draw, (2, *shape)), strict=True)
    for rows in (1, 2, 5):
        x = images(draw, (rows, *shape))
        for got, want in zip(fast(x), model(x), strict=True):
            assert got.dtype == want.dtype
            torch.testing.assert_close(got, want, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dimensions", POOLS)
@pytest.mark.parametrize("seed", range(12))
def test_windows(seed: int, dimensions: int) -> None:
    draw = random.Random(100 * dimensions + seed)
    torch.manual_seed(seed)
    how = []
    for _ in range(dimensions):
        kernel = draw.randint(1, 3)
        how.append((kernel, draw.randint(1, 3), draw.randint(0, kernel // 2), draw.randint(1, 2)))
    kernels, strides, paddings, dilations = zip(*how)
    size = tuple((k - 1) * d + draw.randint(1, 4) for k, _, _, d in how)
    ceil = draw.random() < 0.5

    def pooled(x: Tensor) -> tuple[Tensor, Tensor]:
        return POOLS[dimensions](x, kernels, strides, paddings, dilations, ceil, return_indices=True)

    compare(pooled, draw, (draw.randint(1, 3), *size))


@pytest.mark.parametrize("dimensions", ADAPTIVE)
@pytest.mark.parametrize("seed", range(8))
def test_adaptive_windows(seed: int, dimensions: int) -> None:
    draw = random.Random(100 * dimensions + seed)
    torch.manual_seed(seed)
    size = tuple(draw.randint(1, 7) for _ in range(dimensions))
    out = tuple(1 if seed == 0 else draw.randint(1, n) for n in size)
    compare(lambda x: ADAPTIVE[dimensions](x, out, return_indices=True), draw, (draw.randint(1, 3), *size))
