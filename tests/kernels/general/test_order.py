"""Order beyond conformance: where the extremes are, the largest few and sorted lines of torch, through compiled models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

import rtaccel as rt
from rtaccel.core.errors import FormatError, ShapeError
from rtaccel.core.stage import Stage, Value
from rtaccel.kernels.order import contract
from tests.support.networks.call import Call

CALLS: dict[str, Callable[[Tensor], Any]] = {
    "argmax": lambda x: x.argmax(1),
    "argmin": lambda x: x.argmin(2, keepdim=True),
    "of all": lambda x: x.argmax() if x.dim() == 1 else x.flatten(1).argmax(1),
    "maximum": lambda x: x.max(1),
    "minimum": lambda x: x.min(2, keepdim=True),
    "its place": lambda x: x.max(2).indices,
    "sort": lambda x: x.sort(dim=2, stable=True),
    "sort downward": lambda x: x.sort(dim=1, stable=True, descending=True),
    "argsort": lambda x: x.argsort(dim=1, stable=True),
    "values of the largest": lambda x: x.topk(3, 1).values + x.topk(3, 1, largest=False).values,
    "values of many": lambda x: x.topk(33, 2).values,
    "the third": lambda x: x.kthvalue(3, 1).values,
    "median": lambda x: x.median(2).values,
}


def equal_elements(*shape: int) -> Tensor:
    """Halves, of which many are equal."""
    return torch.randint(-9, 9, shape) / 2.0


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("turned", [False, True])
def test_equals_torch_to_the_element(name: str, turned: bool) -> None:
    function = (lambda x: CALLS[name](x.transpose(1, 2))) if turned else CALLS[name]
    model = Call(function).eval()
    shape = (37, 6) if turned else (6, 37)
    fast = rt.compile(model, torch.randn(2, *shape), strict=True)
    for rows in (1, 2, 5):
        x = equal_elements(rows, *shape)
        if rows == 5:
            x[:, 2, 3], x[1, 4], x[2, 1, 1] = float("nan"), float("inf"), -float("inf")
        torch.testing.assert_close(fast(x), model(x), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", ["sort", "argsort", "down", "values of many", "median", "kthvalue"])
@pytest.mark.parametrize("n", [191, 192, 700, 1535, 1536, 5000])
def test_long_lines(name: str, n: int) -> None:
    """Of numbers of all sizes, equal ones, zeros of both signs and what is no number: their order, places and bits."""
    calls: dict[str, Callable[[Tensor], Any]] = {
        "sort": lambda x: x.sort(dim=1, stable=True), "argsort": lambda x: x.argsort(dim=1, stable=True),
        "down": lambda x: x.sort(dim=1, stable=True, descending=True), "values of many": lambda x: x.topk(n // 2, 1).values,
        "median": lambda x: x.median(1).values, "kthvalue": lambda x: x.kthvalue(n // 3, 1).values,
    }  # fmt: skip
    model = Call(calls[name]).eval()
    fast = rt.compile(model, torch.randn(2, n), strict=True)
    x = torch.randn(4, n) * 10.0 ** torch.randint(-38, 38, (4, n))
    x[1] = equal_elements(n)
    x[2, ::3], x[2, 1::5], x[2, 7::11], x[2, 5::13] = 0.0, -0.0, float("inf"), -float("inf")
    x[3, torch.randint(n, (9,))] = float("nan")
    for got, want in zip(pytree.tree_leaves(fast(x)), pytree.tree_leaves(model(x))):
        torch.testing.assert_close(got, want, rtol=0, atol=0, equal_nan=True)
        if name in ("sort", "down"):
            assert torch.equal(got.signbit(), want.signbit()) or bool(got.isnan().any())


def test_the_largest_few_are_where_torch_finds_them() -> None:
    """Of elements that differ: which of equal ones topk gives, torch does not say."""
    model = Call(lambda x: x.topk(5, 1)).eval()
    fast = rt.compile(model, torch.randn(2, 40), strict=True)
    x = torch.stack([torch.randperm(40) for _ in range(7)]).float()
    torch.testing.assert_close(fast(x), model(x), rtol=0, atol=0)


def test_whole_numbers() -> None:
    model = Call(lambda i: (i.sort(1), i.argmax(1), i.max(1))).eval()
    i = torch.randint(-(2**62), 2**62, (3, 50))
    torch.testing.assert_close(rt.compile(model, i, strict=True)(i), model(i), rtol=0, atol=0)


def stage(**attrs: object) -> Stage:
    given = {
        "descending": 0, "nan_first": 0, "k": 2, "gives": "indices", "dims": (2, 4), "places": ((0, 4, 1), (0, 2, 1)), **attrs,
    }  # fmt: skip
    return Stage("order", "case", (Value("x", 4, steps=2),), (Value("y", 2, "int64", steps=2),), {}, given)


def test_what_is_refused() -> None:
    contract.lower(stage())
    for wrong in ({"gives": "ranks"}, {"gives": "values,indices"}):
        with pytest.raises(FormatError):
            contract.lower(stage(**wrong))
    for wrong in ({"k": 0}, {"k": 5}, {"dims": (3, 4)}, {"gives": "values"}, {"places": ((1, 4, 1), (0, 2, 1))}):
        with pytest.raises(ShapeError):
            contract.lower(stage(**wrong))
