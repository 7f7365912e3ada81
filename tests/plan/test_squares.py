"""Squares inside of what joins them: where that is so, where somebody else reads them, and the numbers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.support.networks.call import Call, CallOfTwo
from tests.support.one_stage import INF, NAN, compiled_both, operators_of

INSIDE: dict[str, Callable[[Tensor], Tensor]] = {
    "energy": lambda x: (x * x).sum(2),
    "power": lambda x: x.square().mean((1, 3)),
    "of all": lambda x: (x**2).sum((1, 2, 3)),
    "variance": lambda x: x.var((2, 3)),
    "variance of channels": lambda x: x.var(1, unbiased=False),
    "off the largest": lambda x: (x - x.amax(3, keepdim=True)).square().sum(3),
    "the other way round": lambda x: (x.mean(2, keepdim=True) - x).square().mean(2),
    "of groups": lambda x: (x.reshape(-1, 2, 3 * 5 * 7) - x.reshape(-1, 2, 3 * 5 * 7).mean(2, keepdim=True)).square().sum(2),
    "turned": lambda x: x.permute(0, 2, 3, 1).var(1),
}  # fmt: skip
APART: dict[str, Callable[[Tensor], object]] = {
    "a result too": lambda x: ((x * x).sum(2), x * x),
    "read twice": lambda x: (s := x * x).sum(2) + s.amax(2),
    "the largest": lambda x: (x * x).amax(2),
    "another power": lambda x: (x * x * x).sum(2),
    "about more than its own": lambda x: (x - x[:, :1]).square().sum(1),
    "about another line": lambda x: (x - x.mean(2, keepdim=True).flip(1)).square().sum(2),
}


@pytest.mark.parametrize("name", INSIDE)
def test_in_one_pass(name: str) -> None:
    model = Call(INSIDE[name]).eval()
    native, plain, found = compiled_both(model, (torch.randn(2, 6, 5, 7),))
    assert found.count("reduce") >= 1
    assert not any(
        "36" in line.what or "expression(float32[1, 30, 7]" in line.what for line in native.explain_lines(measure=False)
    )
    for rows in (1, 2, 5):
        x = torch.randn(rows, 6, 5, 7) + 3.0
        want = model(x.double())
        for fast in (native, plain):
            torch.testing.assert_close(fast(x).double(), want, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("name", APART)
def test_stay_where_somebody_reads_them(name: str) -> None:
    model = Call(APART[name]).eval()
    native, plain, _ = compiled_both(model, (torch.randn(2, 6, 5, 7),))
    x = torch.randn(3, 6, 5, 7)
    want = model(x.double())
    for fast in (native, plain):
        got = fast(x)
        for a, b in zip(got, want) if isinstance(got, (tuple, list)) else [(got, want)]:
            torch.testing.assert_close(a.double(), b, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("number", [INF, -INF, NAN, 3e38])
def test_no_number_is_lost(number: float) -> None:
    """An infinite number that squares are about is no NaN, and the other way round."""
    model = CallOfTwo(lambda x, m: (x - m[:, :, None]).square().sum(2)).eval()
    for width in (3, 16, 37, 130):
        native, plain, found = compiled_both(model, (torch.randn(2, 4, width), torch.randn(2, 4)))
        assert found == ["reduce"]
        x, m = torch.randn(2, 4, width), torch.randn(2, 4)
        x[0, 1, width - 1], m[1, 2] = number, number
        for fast in (native, plain):
            torch.testing.assert_close(fast(x, m), model(x, m), equal_nan=True)


def test_about_numbers_of_any_line() -> None:
    """Lines of every length, whose last vector is full or not, by rows and by columns."""
    for dim in (1, 2):
        model = CallOfTwo(lambda x, m, dim=dim: (x - m.unsqueeze(dim)).square().mean(dim)).eval()
        for size in (1, 2, 9, 31, 64, 65, 700):
            shape = (size, 5) if dim == 1 else (5, size)
            native, plain, found = compiled_both(model, (torch.randn(2, *shape), torch.randn(2, 5)))
            x, m = torch.randn(3, *shape), torch.randn(3, 5)
            for fast in (native, plain):
                torch.testing.assert_close(fast(x, m).double(), model(x.double(), m.double()), rtol=2e-6, atol=1e-6)
            assert found[-1] in ("reduce", "pool")


def test_operators_of_a_group_norm() -> None:
    from torch import nn

    fast, _, _ = compiled_both(nn.GroupNorm(3, 24), (torch.randn(1, 24, 40, 36),))
    assert operators_of(fast) == [
        "reduce", "rearrange", "reduce", "rearrange", "expression", "expression", "strided_expression",
    ]  # fmt: skip
