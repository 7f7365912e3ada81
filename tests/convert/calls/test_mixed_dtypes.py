"""Calls over operands of different dtypes: native, and the numbers and dtypes of torch, also where another call reads them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt

Binary = Callable[[Tensor, Tensor], Tensor]
CALLS: dict[str, Binary] = {
    "add": torch.add,
    "sub": lambda a, b: a - b,
    "mul": torch.mul,
    "div": torch.div,
    "floor": lambda a, b: torch.div(a, b, rounding_mode="floor"),
    "trunc": lambda a, b: torch.div(a, b, rounding_mode="trunc"),
    "remainder": torch.remainder,
    "fmod": torch.fmod,
    "maximum": torch.maximum,
    "fmax": torch.fmax,
    "fmin": torch.fmin,
    "lt": torch.lt,
    "eq": torch.eq,
    "where": lambda a, b: torch.where(a > 0, a, b),
    "and": torch.logical_and,
    "xor": torch.logical_xor,
    "clamp": lambda a, b: torch.clamp(a, min=b),
    "cat": lambda a, b: torch.cat([a, b, a], -1),
    "stack": lambda a, b: torch.stack([a, b], 1),
    "fill": lambda a, b: b.masked_fill(a > 0, 2),
    "fifth": lambda a, b: a**5 + b,
    "prod": lambda a, b: (a[:, :3] * b[:, :3]).prod(-1),
    "amax": lambda a, b: (a * b).amax(-1),
    "amin": lambda a, b: (a + b).amin(-1),
    "sum": lambda a, b: a.sum(-1) + b.sum(-1),
    "cumsum": lambda a, b: (a + b).cumsum(-1),
    "number": lambda a, b: (a + 1.5) * (3 - b.float()),
}
KINDS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "real": lambda x, k: x,
    "int64": lambda x, k: k,
    "int32": lambda x, k: k.int(),
    "bool": lambda x, k: k > 0,
}


class Mixed(nn.Module):
    def __init__(self, call: Binary, kinds: tuple[str, str]) -> None:
        super().__init__()
        self.call, self.kinds = call, kinds

    def forward(self, x: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        made = self.call(*(KINDS[kind](x, k) for kind in self.kinds))
        return made, made.float() * 3.0


@pytest.mark.parametrize("name", CALLS)
def test_equal_torch(name: str) -> None:
    generator = torch.Generator().manual_seed(len(name))
    x, k = torch.randn(3, 17, generator=generator) * 3, torch.randint(-4, 5, (3, 17), generator=generator)
    compared = 0
    for kinds in itertools.product(KINDS, repeat=2):
        model = Mixed(CALLS[name], kinds).eval()
        try:
            want = model(x, k)
        except RuntimeError:  # torch has no such call, or divides whole numbers by zero
            continue
        fast = rt.compile(model, (x, k), verify=False, strict=True)
        for got, wanted in zip(fast(x, k), want):
            torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-6, equal_nan=True, msg=f"{name} of {kinds}")
        compared += 1
    assert compared >= 4


@pytest.mark.parametrize("reader", ["alone", "real", "moved", "index"])
def test_bytes(reader: str) -> None:
    class Bytes(nn.Module):
        def forward(self, x: Tensor, k: Tensor) -> Tensor:
            made = torch.cat([(x.abs() * 80).to(torch.uint8), k.to(torch.uint8)], -1)
            if reader == "real":
                return made / 255 + (made > 3)
            if reader == "moved":
                return made.flip(-1)[:, 3:].reshape(-1, 31)
            return torch.arange(256.0)[made.long()] if reader == "index" else made

    x, k = torch.randn(3, 17), torch.randint(-300, 600, (3, 17))
    model = Bytes().eval()
    fast = rt.compile(model, (x, k), verify=False, strict=True)
    torch.testing.assert_close(fast(x, k), model(x, k), rtol=1e-6, atol=0)


@pytest.mark.parametrize("kind", ["truths", "numbers", "whole"])
@pytest.mark.parametrize("call", [torch.sum, torch.prod], ids=("sum", "prod"))
def test_sums_and_products_as_truth_values(call: Any, kind: str) -> None:
    class Reduced(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            given = {"truths": x > 0, "numbers": x * (x > 0), "whole": (2 * x).long()}[kind]
            along, kept = call(given, 1, dtype=torch.bool), call(given, -1, keepdim=True, dtype=torch.bool)
            return along, torch.where(kept, torch.zeros(1), x)

    model, x = Reduced().eval(), torch.randn(40, 3, 4) + 0.6
    fast = rt.compile(model, (x[:2],), strict=True)
    for got, want in zip(fast(x), model(x)):
        torch.testing.assert_close(got, want)
