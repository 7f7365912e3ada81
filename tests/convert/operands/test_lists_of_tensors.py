"""Calls of lists of tensors (`torch._foreach_mul` and the like), natively: one call for each tensor, in all of their forms."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt
from rtaccel.convert.frontend.decompositions.each import EACH

ONE = (
    "abs", "ceil", "clone", "cos", "cosh", "erf", "erfc", "exp", "expm1", "floor", "frac", "lgamma", "log1p", "neg", "reciprocal",
    "round", "sigmoid", "sign", "sin", "sinh", "tan", "tanh", "trunc",
)  # fmt: skip
OF_SHARES = ("acos", "asin", "atan", "log", "log10", "log2", "rsqrt", "sqrt")
TWO = ("add", "sub", "mul", "div", "maximum", "minimum", "clamp_max", "clamp_min", "pow")


def named(name: str) -> Callable[..., Any]:
    return getattr(torch, f"_foreach_{name}")


class Lists(nn.Module):
    """call: of three lists of tensors."""

    def __init__(self, call: Callable[..., Any]) -> None:
        super().__init__()
        self.call = call

    def forward(self, a: Tensor, b: Tensor, c: Tensor) -> list[Tensor]:
        return list(self.call([a, b[..., :3]], [b, a[..., :3]], [c, c[..., 1:]]))


def compare(call: Callable[..., Any]) -> None:
    model = Lists(call).eval()

    def inputs(rows: int) -> tuple[Tensor, ...]:
        return tuple(torch.rand(rows, 4) * 0.9 + 0.05 for _ in range(3))

    fast = rt.compile(model, inputs(2), strict=True)
    for rows in (1, 2, 5):
        given = inputs(rows)
        for got, want in zip(fast(*given), model(*given), strict=True):
            assert got.dtype == want.dtype and got.shape == want.shape
            torch.testing.assert_close(got, want, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("name", [*ONE, *OF_SHARES])
def test_of_one_list(name: str) -> None:
    compare(lambda a, b, c: named(name)(a))


@pytest.mark.parametrize("second", ["list", "number", "numbers"])
@pytest.mark.parametrize("name", TWO)
def test_of_two(name: str, second: str) -> None:
    numbers = {"number": 0.7, "numbers": [0.4, 2.0]}
    compare(lambda a, b, c: named(name)(a, b if second == "list" else numbers[second]))


def test_forms_of_their_own() -> None:
    compare(lambda a, b, c: torch._foreach_add(a, b, alpha=2.5))
    compare(lambda a, b, c: torch._foreach_mul(a, torch.tensor(3.0)))
    compare(lambda a, b, c: torch._foreach_pow(2.0, b))
    compare(lambda a, b, c: torch._foreach_lerp(a, b, c))
    compare(lambda a, b, c: torch._foreach_lerp(a, b, 0.3))
    for call in (torch._foreach_addcmul, torch._foreach_addcdiv):
        compare(lambda a, b, c, call=call: call(a, b, c, value=0.5))
        compare(lambda a, b, c, call=call: call(a, b, c, [0.5, 2.0]))


def test_in_place() -> None:
    def call(a: list[Tensor], b: list[Tensor], c: list[Tensor]) -> list[Tensor]:
        own = [x.clone() for x in a]
        torch._foreach_mul_(own, b)
        torch._foreach_add_(own, c, alpha=0.5)
        torch._foreach_clamp_max_([own[0][:, :2], own[1]], 0.4)
        torch._foreach_copy_([own[0][:, 3:]], [b[0][:, :1]])
        return own

    compare(call)


@pytest.mark.parametrize("seed", range(4))
def test_chains(seed: int) -> None:
    draw = random.Random(seed)
    steps = [(draw.choice(("add", "mul", "sub", "maximum")), draw.choice(("b", "c", 0.5))) for _ in range(5)]

    def call(a: list[Tensor], b: list[Tensor], c: list[Tensor]) -> list[Tensor]:
        for name, other in steps:
            a = list(named(name)(a, {"b": b, "c": c}.get(str(other), other)))
        return a

    compare(call)


def test_every_call_of_lists_is_known() -> None:
    names = {schema.name for schema in torch._C._jit_get_all_schemas()}
    lists = {name for name in names if name.startswith("aten::_foreach_") and not name.endswith("_")}
    assert lists - set(EACH) <= {"aten::_foreach_powsum"}
