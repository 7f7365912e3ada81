"""Random graphs in W8A8: whatever calls a graph is made of, batches of any size calibrate it, and results are numbers of the
model's shapes and dtypes. How near they are is for the tests of each layer: random calls may spread any error."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import rtaccel as rt
from tests.support.generators.count import case
from tests.support.generators.graphs.check import KINDS, Graphs, inputs
from tests.support.generators.graphs.program import SAMPLES, Draw, Graph, Made

TOGETHER, BLOCKS = 25, 12


def pool_with_places(draw: Draw, x: Tensor, other: Tensor) -> Made:
    if x.dim() not in (3, 4):
        raise ValueError("no image")
    pooled: Any = F.max_pool1d if x.dim() == 3 else F.max_pool2d
    kernel, stride = draw.of(2, 3), draw.of(None, 1, 2)

    def values_at_places(a: Tensor, b: Tensor) -> Tensor:
        found, places = pooled(a, kernel, stride, return_indices=True)
        return found + a.flatten(2).gather(2, places.flatten(2)).view_as(found)

    return Made(values_at_places)


@pytest.mark.turns(BLOCKS)
@pytest.mark.parametrize("block", range(BLOCKS))
def test_any_batch_calibrates(block: int) -> None:
    for seed in range(block * TOGETHER, (block + 1) * TOGETHER):
        graph = Graph(seed, (*KINDS, *[pool_with_places] * 3))
        model = Graphs.named([graph]).eval()
        try:
            fast = rt.compile(
                model, inputs(SAMPLES, 0), verify=False, scheme="w8a8", calibration=[inputs(3, 1), inputs(5, 2)]
            )
            given = inputs(4, 3)
            found = fast(*given)
        except Exception as error:
            raise AssertionError(f"{type(error).__name__}: {error}: {graph.words()}") from error
        for got, want in zip(found, model(*given), strict=True):
            assert (got.shape, got.dtype) == (want.shape, want.dtype), graph.words()
            assert bool(torch.isfinite(got).all()), graph.words()
        case("graphs in W8A8", 1)
