"""Integer beyond conformance: whole numbers of torch, exactly, through compiled models; inputs of bool and int32."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import rtaccel as rt
from rtaccel.core.errors import FormatError, ShapeError
from rtaccel.core.stage import Stage, Value
from rtaccel.kernels.integer import contract
from tests.support.networks.call import Call, CallOfTwo

CALLS: dict[str, Callable[[Tensor], Any]] = {
    "sums": lambda i: (i + 3) * 2 - i - torch.arange(7),
    "quotients": lambda i: (i // -7, i % 5, torch.fmod(i, -3), torch.div(i, 4, rounding_mode="trunc")),
    "comparisons": lambda i: (i > 5) & (i <= 30) | (i == -4),
    "limits": lambda i: torch.where(i > 5, i.clamp(3, 9), -i.abs()),
    "bits": lambda i: (i & 12) | (~i ^ 3),
    "squares": lambda i: i**2 + i.square(),
    "casts": lambda i: (i.float() * 0.5).long() + i.bool().long(),
    "int32": lambda i: (i.to(torch.int32) * 7 + 1).long(),
    "truths": lambda i: (i > 0).long() + (i > 3),
    "parts": lambda i: torch.cat([i[:, ::2] + 1, i.flip(1)], 1),
    "turned": lambda i: ((i + 1)[:, None].expand(-1, 3, -1).transpose(1, 2) * 2).reshape(i.shape[0], -1),
    "padded": lambda i: torch.nn.functional.pad(i + 1, (2, 1)),
    "sum of all": lambda i: i.sum(1),
    "extremes": lambda i: i.amax(-1) - i.amin(-1),
    "one hot": lambda i: torch.nn.functional.one_hot(i.clamp(0, 4), 5),
}


@pytest.mark.parametrize("name", CALLS)
def test_equals_torch_to_the_number(name: str) -> None:
    model = Call(CALLS[name]).eval()
    fast = rt.compile(model, torch.randint(-60, 60, (2, 7)), strict=True)
    for rows in (1, 2, 5):
        i = torch.randint(-60, 60, (rows, 7))
        torch.testing.assert_close(fast(i), model(i), rtol=0, atol=0)


def test_numbers_as_large_as_int64_has_them() -> None:
    model = Call(lambda i: (i * i + i, i // -7, i.sum(1), i.cumsum(1), i < 2**61, i.float())).eval()
    i = torch.randint(-(2**62), 2**62, (3, 9))
    torch.testing.assert_close(rt.compile(model, i, strict=True)(i), model(i), rtol=0, atol=0)


ENDS = sorted(
    {s * (2**n + d) for n in (0, 31, 32, 62) for d in (-1, 0, 1) for s in (-1, 1)} | {-(2**63), 1 - 2**63, 2**63 - 1}
)
"""Whole numbers where a word ends, down to the lowest one that int64 has."""


@pytest.mark.parametrize("number", ENDS)
def test_numbers_of_the_model_reach_as_far_as_int64(number: int) -> None:
    def call(i: Tensor) -> Any:
        filled = torch.where(i > 3, i, number)
        known = (filled, i.masked_fill(i < 0, number).amax(1), i == number, i.clamp(min=number), i * number, i + number)
        return (*known, i // number, torch.fmod(filled, number)) if number else known

    i = torch.randint(-9, 9, (3, 5))
    torch.testing.assert_close(rt.compile(Call(call).eval(), i, strict=True)(i), call(i), rtol=0, atol=0)


def test_int32_wraps_at_32_bits() -> None:
    i = torch.tensor([[2**31 - 1, -(2**31), 5]], dtype=torch.int32).repeat(2, 1)
    model = Call(lambda i: (i + 1, i * 3, i.long() * 3, i)).eval()
    torch.testing.assert_close(rt.compile(model, i, strict=True)(i), model(i), rtol=0, atol=0)


def test_a_mask_of_truth_values() -> None:
    model = CallOfTwo(lambda x, m: ((x * m[..., None]).sum(1) / m.sum(1, keepdim=True).clamp(min=1), ~m)).eval()
    fast = rt.compile(model, (torch.randn(2, 5, 3), torch.rand(2, 5) > 0.4), strict=True)
    for rows in (1, 2, 5):
        x, m = torch.randn(rows, 5, 3), torch.rand(rows, 5) > 0.4
        torch.testing.assert_close(fast(x, m), model(x, m), rtol=1e-6, atol=1e-6)


def test_float32_is_rounded_toward_zero() -> None:
    x = torch.tensor([[1.5, -1.5, 2.5, -0.0, 1e9, -3e18]])
    model = Call(lambda x: x.long()).eval()
    torch.testing.assert_close(rt.compile(model, x, strict=True)(x), model(x), rtol=0, atol=0)


def test_a_division_by_zero_is_refused_and_forgotten() -> None:
    ones = torch.ones(2, 4, dtype=torch.int64)
    fast = rt.compile(CallOfTwo(lambda i, j: i // j).eval(), (ones, ones), strict=True)
    i = torch.arange(8).reshape(2, 4)
    for _ in range(2):
        with pytest.raises(FormatError, match="division by zero"):
            fast(i, i)
        torch.testing.assert_close(fast(i, i + 1), i // (i + 1))


def stage(*program: str, **attrs: object) -> Stage:
    given = {"program": program, "dims": (4,), "places": ((0, 1),), **attrs}
    return Stage("integer", "case", (Value("x", 4, "int64"),), (Value("y", 4, "int64"),), {}, given)


def test_what_is_refused() -> None:
    for wrong in ("cosine x0", "add x0", "add x0 x1", "neg t0", "add x0 1.5"):
        with pytest.raises(FormatError):
            contract.lower(stage(wrong))
    with pytest.raises(FormatError):
        contract.lower(stage())
    for attrs in ({"dims": (5,)}, {"places": ()}, {"places": ((1, 1),)}):
        with pytest.raises(ShapeError):
            contract.lower(stage("neg x0", **attrs))
