"""Scan beyond conformance: running sums, products and extremes of torch over any dimension, through compiled models."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import rtaccel as rt
from rtaccel.core.errors import FormatError, ShapeError
from rtaccel.core.stage import Stage, Value
from rtaccel.kernels.scan import contract
from tests.support.networks.call import Call

CALLS: dict[str, Callable[[Tensor], Tensor]] = {
    "sum": lambda x: x.cumsum(1),
    "sum of the last": lambda x: x.cumsum(-1),
    "product": lambda x: x.cumprod(2),
    "extremes": lambda x: x.cummax(1).values + x.cummin(2).values,
    "logarithm": lambda x: x.logcumsumexp(1) - x.logcumsumexp(2),
    "of a part": lambda x: x[:, 1:, ::2].cumsum(1),
    "backward": lambda x: x.flip(2).cumsum(2).flip(2),
    "counts": lambda x: (x > 0).cumsum(1).float() + (x > 0.5).sum((1, 2))[:, None, None],
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("turned", [False, True])
def test_equals_torch_and_is_native(name: str, turned: bool) -> None:
    """Sums are in float64 on both sides: what differs is the rounding to float32."""
    function = (lambda x: CALLS[name](x.transpose(1, 2))) if turned else CALLS[name]
    model = Call(function).eval()
    shape = (37, 6) if turned else (6, 37)
    fast = rt.compile(model, torch.randn(2, *shape), strict=True)
    for rows in (1, 2, 5):
        x = torch.randn(rows, *shape)
        torch.testing.assert_close(fast(x), model(x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("seed", range(10))
def test_any_count_of_lines(seed: int) -> None:
    """Lines go 16 at a time, side by side or turned, or by 128 where their rows share the sets of a cache."""
    rng = random.Random(seed)
    shape = rng.choice(((rng.randint(1, 40), rng.randint(1, 70)), (rng.randint(5, 9), rng.choice((512, 1024)))))
    name = rng.choice(("sum", "sum of the last", "extremes", "logarithm"))
    model = Call(CALLS[name]).eval()
    fast = rt.compile(model, torch.randn(2, *shape), strict=True)
    x = torch.randn(3, *shape)
    torch.testing.assert_close(fast(x), model(x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["sum", "sum of the last", "product", "extremes", "logarithm"])
def test_nan_and_infinity_go_on(name: str) -> None:
    x = torch.randn(3, 6, 37)
    x[0, 2, 5], x[1, 3, 7], x[1, 3, 9], x[2, 0, 0] = float("nan"), float("inf"), -float("inf"), -float("inf")
    model = Call(CALLS[name]).eval()
    fast = rt.compile(model, torch.randn(2, 6, 37), strict=True)
    torch.testing.assert_close(fast(x), model(x), rtol=1e-6, atol=1e-6, equal_nan=True)


def stage(dtype: str = "float32", **attrs: object) -> Stage:
    given = {"kind": "sum", "last": 0, "dims": (4, 2), "places": ((0, 1, 4), (0, 1, 4)), **attrs}
    return Stage("scan", "case", (Value("x", 4, dtype, steps=2),), (Value("y", 4, dtype, steps=2),), {}, given)


def test_what_is_refused() -> None:
    with pytest.raises(FormatError, match="median"):
        contract.lower(stage(kind="median"))
    with pytest.raises(FormatError, match="logsumexp"):
        contract.lower(stage("int64", kind="logsumexp"))
    for wrong in ({"dims": (4, 3)}, {"places": ((1, 1, 4), (0, 1, 4))}, {"last": 1}):
        with pytest.raises(ShapeError):
            contract.lower(stage(**wrong))
