"""Pooling of every kind through compiled models, and its windows by dimension."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import rtaccel as rt
from rtaccel.core.registry import operator
from rtaccel.core.stage import Stage, Value
from tests.support.against_torch import check_native
from tests.support.networks.call import Call
from tests.support.one_stage import check_no_samples, check_samples_apart

PLANE: dict[str, Callable[[Tensor], Tensor]] = {
    "max, rounded up": lambda x: F.max_pool2d(x, 3, 2, ceil_mode=True),
    "average, rounded up": lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True),
    "average inside, rounded up": lambda x: F.avg_pool2d(x, (3, 2), 2, 1, ceil_mode=True, count_include_pad=False),
    "divisor": lambda x: F.avg_pool2d(x, 3, 1, 1, divisor_override=5),
    "adaptive average": lambda x: F.adaptive_avg_pool2d(x, (3, 4)),
    "to more positions": lambda x: F.adaptive_avg_pool2d(x, (11, None)),
    "adaptive max": lambda x: F.adaptive_max_pool2d(x, (3, 5)),
    "area": lambda x: F.interpolate(x, size=(4, 3), mode="area"),
    "wide max": lambda x: F.max_pool2d(x, 5, 1, 2),
    "wide average": lambda x: F.avg_pool2d(x, 7, 1, 3, count_include_pad=False),
    "indices that nobody reads": lambda x: F.max_pool2d(x, 2, return_indices=True)[0],
    "adaptive indices that nobody reads": lambda x: F.adaptive_max_pool2d(x, 2, return_indices=True)[0],
    "powers": lambda x: F.lp_pool2d(x, 2.0, 3, 2),
    "dilated": lambda x: F.max_pool2d(x, 3, 2, 1, 2, ceil_mode=True),
}
LINE: dict[str, Callable[[Tensor], Tensor]] = {
    "max": lambda x: F.max_pool1d(x, 3, 2, 1, 2, ceil_mode=True),
    "average": lambda x: F.avg_pool1d(x, 3, 2, 1, ceil_mode=True),
    "adaptive": lambda x: F.adaptive_avg_pool1d(x, 4) + F.adaptive_max_pool1d(x, 4),
    "powers": lambda x: F.lp_pool1d(x.abs(), 3.0, 3, 2, ceil_mode=True),
}
VOLUME: dict[str, Callable[[Tensor], Tensor]] = {
    "max": lambda x: F.max_pool3d(x, 3, 2, 1, ceil_mode=True),
    "average": lambda x: F.avg_pool3d(x, 2),
    "divisor": lambda x: F.avg_pool3d(x, 3, 2, 1, divisor_override=7),
    "adaptive": lambda x: F.adaptive_avg_pool3d(x, (2, 3, 1)) + F.adaptive_max_pool3d(x, (2, 3, 1)),
}
CALLS = {(name, (8, 9)): f for name, f in PLANE.items()} | {(name, (10,)): f for name, f in LINE.items()}
CALLS |= {(name, (6, 7, 8)): f for name, f in VOLUME.items()}


@pytest.mark.parametrize("channels", [1, 3, 20])
@pytest.mark.parametrize("name", CALLS, ids=str)
def test_equals_torch(name: Any, channels: int) -> None:
    check_native(Call(CALLS[name]), channels, *name[1], terms=55)


def test_indices_that_are_read() -> None:
    model = Call(lambda x: F.max_pool2d(x, 2, return_indices=True)).eval()
    x = torch.randn(2, 3, 6, 6)
    fast = rt.compile(model, x, strict=True)
    assert all(torch.equal(a, b) for a, b in zip(fast(x), model(x)))


def test_windows_that_overlap_much_are_taken_one_dimension_after_the_other() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.MaxPool2d(9, 1, 4))
    check_native(model, 3, 12, 12)
    assert rt.compile(model, torch.randn(1, 3, 12, 12)).explain().count("pool(") == 2


def test_a_nan_is_the_maximum_of_its_windows_alone() -> None:
    model = Call(lambda x: F.max_pool2d(x, 5, 1, 2) + F.adaptive_max_pool2d(x, (9, 9))).eval()
    x = torch.randn(2, 4, 9, 9)
    x[0, 1, 3, 4], x[1, 0, 8, 0] = float("nan"), float("-inf")
    torch.testing.assert_close(rt.compile(model, x, strict=True)(x), model(x), equal_nan=True, rtol=0, atol=0)


def _stage(kind: str, **attrs: Any) -> Stage:
    given = {
        "kind": kind, "in_size": (2, 5), "windows": (((0,), (0, 1)), ((0, 1, 2), (3,), (2, 4))),
        "divisors": ((1, 2), (3, 1, 2)), **attrs,
    }  # fmt: skip
    return Stage("pool", "p", (Value("x", 5, steps=10),), (Value("y", 5, steps=6),), {}, given)


@pytest.mark.parametrize("kind", ["avg", "max"])
def test_samples_are_apart(kind: str) -> None:
    check_samples_apart(_stage(kind), (torch.randn(3, 10, 5),))
    check_no_samples(_stage(kind))


@pytest.mark.parametrize(
    "attrs",
    [
        {"in_size": (2, 4)},
        {"windows": (((0,), (0, 2)), ((0,), (1,), (2,)))},
        {"windows": (((0,), (1,)),)},
        {"divisors": ((1, 2), (3, 1))},
    ],
)
def test_windows_that_do_not_fit_are_refused(attrs: dict[str, Any]) -> None:
    with pytest.raises(rt.ShapeError, match="windows inside the image"):
        operator("pool").lower(_stage("avg", **attrs))


def test_an_empty_window_is_refused() -> None:
    with pytest.raises(rt.ShapeError, match="a window wholly in the padding"):
        operator("pool").lower(_stage("avg", windows=(((0,), ()), ((0,), (1,), (2,)))))
