"""Strided expressions beyond conformance: broadcasting of every kind through compiled models, and places that are refused."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt
from rtaccel.core.errors import ShapeError
from rtaccel.core.stage import Stage, Value
from rtaccel.kernels._common.strides import elements, resolve, resolve_dense
from rtaccel.kernels._expression import operator


class Broadcast(nn.Module):
    """An image by gates of every shape that broadcasts against it."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape, self.gate = shape, nn.Parameter(torch.randn(shape))

    def forward(self, x: Tensor, g: Tensor) -> Tensor:
        return torch.relu(x * g.mean(dim=(1, 2, 3), keepdim=True) + self.gate) - g


@pytest.mark.parametrize("shape", [(3, 1, 1), (1, 5, 1), (1, 1, 7), (3, 5, 7), (5, 7), (1,), (3, 1, 7)])
def test_constants_that_broadcast(shape: tuple[int, ...]) -> None:
    torch.manual_seed(sum(shape))
    model = Broadcast(shape).eval()
    fast = rt.compile(model, (torch.randn(2, 3, 5, 7), torch.randn(2, 3, 5, 7)), strict=True)
    for rows in (1, 2, 4):
        x, g = torch.randn(rows, 3, 5, 7), torch.randn(rows, 3, 5, 7)
        with torch.no_grad():
            torch.testing.assert_close(fast(x, g), model(x, g))


class Orders(nn.Module):
    """Two tensors that lie in different orders."""

    def __init__(self, order: tuple[int, ...]) -> None:
        super().__init__()
        self.order = order

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.exp(-((x.permute(0, *self.order) - y) ** 2))


@pytest.mark.parametrize("order", list(itertools.permutations((1, 2, 3))))
def test_operands_in_different_orders(order: tuple[int, ...]) -> None:
    x = torch.randn(2, 3, 4, 6)
    y = torch.randn(2, *(x.shape[d] for d in order))
    torch.testing.assert_close(rt.compile(Orders(order).eval(), (x, y), strict=True)(x, y), Orders(order)(x, y))


def test_resolved_strides_are_the_elements() -> None:
    """For random iterations over values of any rows: rows and columns, or the table, give the very elements."""
    g = torch.Generator().manual_seed(3)
    for _ in range(300):
        sizes = torch.randint(1, 5, (int(torch.randint(1, 4, (1,), generator=g)),), generator=g).tolist()
        strides = torch.randint(0, 7, (len(sizes),), generator=g).tolist()
        place = (int(torch.randint(0, 4, (1,), generator=g)), *strides)
        width = int(torch.randint(1, 9, (1,), generator=g))
        found = resolve(sizes, (place,), (width,))
        wanted = elements(sizes, place)
        if found.tables[0] is not None:
            assert (found.tables[0] == wanted).all()
            continue
        rows, columns = elements(found.dims, found.rows[0]), elements(found.dims, found.columns[0])
        assert (rows * width + columns == wanted).all() and (columns < width).all()


def test_a_result_has_no_table() -> None:
    found = resolve_dense((2, 3, 5), ((0, 15, 5, 1), (0, 15, 5, 1)), (30, 6))
    assert found.tables[-1] is None and found.dims == (5, 6)


@pytest.mark.parametrize("place", [(0, 4, 2), (-1, 4, 1), (5, 4, 1), (0, 4)])
def test_a_place_outside(place: tuple[int, ...]) -> None:
    stage = Stage("strided_expression", "case", (Value("x", 4, steps=2),), (Value("y", 4, steps=2),), {},
                  {"program": ("neg x0",), "dims": (2, 4), "places": (place,)})  # fmt: skip
    with pytest.raises(ShapeError):
        operator.lower(stage)
