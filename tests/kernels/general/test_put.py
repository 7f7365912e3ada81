"""Put beyond conformance: scatter, index_add and index_put of torch by computed indices, through compiled models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import rtaccel as rt
from rtaccel.core.errors import FormatError, ShapeError
from rtaccel.core.stage import Stage, Value
from rtaccel.kernels.put import contract
from tests.support.networks.call import CallOfTwo

PLACES = torch.tensor([2, 0, 3, 3])

CALLS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "sums": lambda x, i: x.scatter_add(1, i[:, :, None].expand(-1, -1, 6), x[:, :4] * 2),
    "sums of columns": lambda x, i: x.scatter_add(2, i[:, None, :].expand(-1, 5, -1), x[:, :, :4]),
    "a number": lambda x, i: x.scatter(2, i[:, None, :].expand(-1, 5, -1), 2.5),
    "largest": lambda x, i: x.scatter_reduce(1, i[:, :, None].expand(-1, -1, 6), x[:, :4] * 2, "amax"),
    "products": lambda x, i: x.scatter_reduce(1, i[:, :, None].expand(-1, -1, 6), x[:, :4] * 2, "prod"),
    "into zeros": lambda x, i: torch.zeros(i.shape[0], 9).scatter_add(1, i, x[:, 0, :4]),
    "the two largest": lambda x, i: torch.zeros_like(x).scatter(-1, x.topk(2, -1).indices, 1.0) * x,
    "whole numbers": lambda x, i: torch.zeros(i.shape[0], 9, dtype=torch.int64).scatter_add(1, i, i + 1),
    "truth values": lambda x, i: torch.zeros(i.shape[0], 9, dtype=torch.bool).scatter(1, i, True),
    "turned": lambda x, i: x.transpose(1, 2).scatter_add(
        2, i[:, None, :].expand(-1, 6, -1), x.transpose(1, 2)[:, :, :4]
    ),
    "added rows": lambda x, i: x.index_add(1, PLACES, x[:, :4]),
    "copied rows": lambda x, i: x.index_copy(1, PLACES[:3], x[:, 2:]),
    "filled rows": lambda x, i: x.index_fill(1, PLACES, 7.0),
    "of each sample": lambda x, i: x.index_put((torch.arange(x.shape[0]), i[:, 0]), x[:, 4] * 3),
    "added of each sample": lambda x, i: x.index_put((torch.arange(x.shape[0])[:, None], i), x[:, :4], accumulate=True),
}


@pytest.mark.parametrize("name", CALLS)
def test_equals_torch_and_is_native(name: str) -> None:
    """At most five sums of numbers below ten, in the same order or another one."""
    model = CallOfTwo(CALLS[name]).eval()
    fast = rt.compile(model, (torch.randn(2, 5, 6), torch.randint(0, 5, (2, 4))), strict=True)
    for rows in (1, 2, 5):
        x, i = torch.randn(rows, 5, 6), torch.randint(0, 5, (rows, 4))
        torch.testing.assert_close(fast(x, i), model(x, i), rtol=5e-6, atol=5e-6)


def test_of_equal_indices_the_last_one_stands() -> None:
    model = CallOfTwo(lambda x, i: x.scatter(1, i, x * 2)).eval()
    fast = rt.compile(model, (torch.randn(2, 4), torch.randint(0, 4, (2, 4))), strict=True)
    x, i = torch.arange(4.0)[None], torch.tensor([[1, 1, 1, 0]])
    torch.testing.assert_close(fast(x, i), torch.tensor([[6.0, 4.0, 2.0, 3.0]]))


def test_an_index_outside_is_refused_and_forgotten() -> None:
    model = CallOfTwo(CALLS["into zeros"]).eval()
    fast = rt.compile(model, (torch.randn(2, 5, 6), torch.randint(0, 5, (2, 4))), strict=True)
    x, i = torch.randn(3, 5, 6), torch.randint(0, 9, (3, 4))
    for wrong in (-1, 9):
        bad = i.clone()
        bad[1, 2] = wrong
        with pytest.raises(FormatError, match=f"index {wrong} "):
            fast(x, bad)
        torch.testing.assert_close(fast(x, i), model(x, i))


def stage(**attrs: object) -> Stage:
    given = {
        "mode": "add", "dims": (3, 4), "kept": 1, "sizes": (5,), "strides": (4,), "negative": 0,
        "places": ((0, 0, 1), (0, 1, 0), (0, 4, 1)), "whole": ((20,), (0, 1), (0, 1)), **attrs,
    }  # fmt: skip
    inputs = (Value("x", 4, steps=5), Value("i", 3, "int64"), Value("src", 4, steps=3))
    return Stage("put", "case", inputs, (Value("y", 4, steps=5),), {}, given)


def test_what_is_refused() -> None:
    contract.lower(stage())
    with pytest.raises(FormatError, match="median"):
        contract.lower(stage(mode="median"))
    for wrong in (
        {"sizes": (6,)}, {"kept": 3}, {"whole": ((10,), (0, 1), (0, 1))}, {"whole": ((20,), (1, 1), (0, 1))},
        {"places": ((0, 0, 1), (0, 1, 0), (1, 4, 1))}, {"places": ((0, 0, 1), (0, 1, 1), (0, 4, 1))},
    ):  # fmt: skip
        with pytest.raises(ShapeError):
            contract.lower(stage(**wrong))
