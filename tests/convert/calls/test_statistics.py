"""Medians and quantiles of what is known, histograms, covariances, pairs: natively, as torch has them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import inf, nan
from typing import Any

import pytest
import torch
from torch import Tensor

import rtaccel as rt
from tests.support.networks.call import Call, CallOfThree, CallOfTwo

EDGES = torch.tensor([-1.5, -0.5, 0.0, 0.25, 2.0])

CALLS: dict[str, tuple[Callable[[Tensor], Any], tuple[int, ...]]] = {
    "median of the known": (lambda x: torch.nanmedian(x, 1).values, (3, 9, 2)),
    "median of the known, kept": (lambda x: torch.nanmedian(x, -1, keepdim=True).values, (3, 4, 8)),
    "median of all": (lambda x: x.nan_to_num(0.5).median(), (4, 7)),
    "median of all, with unknown": (lambda x: x.median(), (4, 7)),
    "median of all the known": (lambda x: x.nanmedian(), (4, 7)),
    "quantile of the known": (lambda x: torch.nanquantile(x, 0.3, 1), (3, 9)),
    "quantile of the known, lower": (lambda x: torch.nanquantile(x, 0.6, 0, interpolation="lower"), (9, 3)),
    "quantile of the known, nearest": (lambda x: torch.nanquantile(x, 0.6, 1, True, interpolation="nearest"), (3, 9)),
    "quantile of all the known": (lambda x: torch.nanquantile(x, 0.8), (3, 9)),
    "histogram": (lambda x: torch.histc(x, 7, -2, 1.5), (5, 30)),
    "histogram by edges": (lambda x: torch.histogram(x.nan_to_num(9.0), EDGES)[0], (5, 30)),
    "covariance": (lambda x: torch.cov(x), (4, 9)),
    "covariance, corrected": (lambda x: x.T.cov(correction=0), (9, 4)),
    "covariance of one": (lambda x: (torch.cov(x[0]), torch.cov(x[:1])), (4, 9)),
    "covariances": (lambda x: torch.stack([torch.cov(one) for one in x]), (2, 3, 6)),
    "correlation": (lambda x: torch.corrcoef(x), (4, 9)),
    "correlation of one": (lambda x: torch.corrcoef(x[1]), (4, 9)),
    "pairs": (lambda x: x[:, torch.combinations(torch.arange(5))].prod(-1), (3, 5)),
    "threes, each again": (lambda x: torch.combinations(x[0, :4], 3, with_replacement=True), (2, 5)),
    "mean of whole numbers": (lambda x: (9 * x.nan_to_num()).long().mean(1, dtype=torch.float32), (3, 5)),
    "sum of whole numbers as real ones": (lambda x: (9 * x.nan_to_num()).int().sum(1, dtype=torch.float32), (3, 5)),
}
NAN = {name for name in CALLS if "known" in name or "histogram" in name}


def numbers(name: str, seed: int) -> Tensor:
    """With elements that are equal; and, where a call leaves these out, some NaN, one line of them whole."""
    torch.manual_seed(seed)
    x = torch.randn(CALLS[name][1])
    x = torch.where(torch.rand(x.shape) < 0.2, (2 * x).round() / 2, x)
    if name in NAN:
        x = torch.where(torch.rand(x.shape) < 0.3, float("nan"), x)
        x[0] = float("nan") if seed == 2 else x[0]
    return x


@pytest.mark.parametrize("name", CALLS)
def test_native_and_right(name: str) -> None:
    model = Call(CALLS[name][0]).eval()
    fast = rt.compile(model, numbers(name, 0), strict=True)
    for seed in range(4):
        x = numbers(name, seed)
        want, got = model(x), fast(x)
        for w, g in zip(*((t if isinstance(t, tuple) else (t,)) for t in (want, got)), strict=True):
            assert (w.dtype, w.shape) == (g.dtype, g.shape)
            torch.testing.assert_close(g, w, rtol=3e-6, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("interpolation", ["linear", "lower", "higher", "midpoint", "nearest"])
@pytest.mark.parametrize("known", [True, False])
def test_quantiles_of_what_is_infinite(interpolation: str, known: bool) -> None:
    """Two infinite neighbors have no difference, and the one that is taken alone needs none."""
    call = torch.nanquantile if known else torch.quantile
    x = torch.randn(8, 9)
    x[0, 0], x[1, :2], x[2, 0], x[3], x[4, 0], x[5, :8] = inf, inf, -inf, inf, nan, -inf
    x[6, ::2], x[6, 1::2] = inf, -inf
    for q in (0.0, 0.1, 0.5, 0.77, 0.9, 1.0):
        model = Call(lambda t, q=q: call(t, q, 1, interpolation=interpolation)).eval()
        got = rt.compile(model, torch.randn(8, 9), strict=True)(x)
        torch.testing.assert_close(got, model(x), rtol=3e-6, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("p", [0.0, 1.0, 2.0, 3.0])
def test_distances_of_what_is_not_finite(p: float) -> None:
    model = CallOfTwo(lambda a, b: torch.cdist(a, b, p)).eval()
    fast = rt.compile(model, (torch.randn(2, 3, 5), torch.randn(2, 4, 5)), strict=True)
    for value in (nan, inf, -inf):
        a, b = torch.randn(2, 3, 5), torch.randn(2, 4, 5)
        a[0, 1, 2] = b[1, 0, 4] = value
        b[0, 0] = a[0, 0]
        torch.testing.assert_close(fast(a, b), model(a, b), rtol=3e-6, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("weight", [-3.0, -0.4, 0.0, 0.3, 0.5, 0.7, 1.0, 2.0, None])
def test_between_two_numbers_of_very_different_size(weight: float | None) -> None:
    """At either end the result is that end. From the other one its digits would be lost."""
    start, end = (t.reshape(8, 25) for t in (torch.randn(200), torch.randn(200)))
    start, end = start * 10.0 ** torch.randint(-9, 9, start.shape), end * 10.0 ** torch.randint(-9, 9, end.shape)
    start[0, :4], end[0, :4] = torch.tensor([inf, 1.0, -inf, inf]), torch.tensor([1.0, -inf, inf, inf])
    given = torch.rand(8, 25).round(decimals=1) * 3 - 1
    by = (lambda a, b, w: torch.lerp(a, b, w)) if weight is None else (lambda a, b, w: torch.lerp(a, b, weight))
    model = CallOfThree(by).eval()
    fast = rt.compile(model, tuple(torch.randn(8, 25) for _ in range(3)), strict=True)
    torch.testing.assert_close(fast(start, end, given), model(start, end, given), rtol=3e-7, atol=0.0, equal_nan=True)


def test_where_the_median_of_the_known_is() -> None:
    """Which of several equal ones torch does not say: the one that is named is the median."""
    model = Call(lambda x: tuple(torch.nanmedian(x, 1))).eval()
    fast = rt.compile(model, numbers("median of the known", 0), strict=True)
    for seed in range(4):
        x = numbers("median of the known", seed)
        values, places = fast(x)
        torch.testing.assert_close(x.gather(1, places[:, None])[:, 0], values, rtol=0, atol=0, equal_nan=True)


def test_shifts_by_numbers_of_each_element() -> None:
    bits = torch.tensor([0, 1, 5, 31, 40, 62, 63])
    for dtype in (torch.int64, torch.int32, torch.int16):
        by = bits[bits < torch.iinfo(dtype).bits].to(dtype)
        model = Call(partial(_shifted, by=by)).eval()
        info = torch.iinfo(dtype)
        x = torch.randint(info.min // 2, info.max // 2, (3, by.numel())).to(dtype)
        x[0, :2] = torch.tensor([info.min, info.max], dtype=dtype)
        fast = rt.compile(model, x, strict=True)
        for w, g in zip(model(x), fast(x), strict=True):
            assert w.dtype == g.dtype and torch.equal(w, g), dtype


def _shifted(x: Tensor, by: Tensor) -> tuple[Tensor, ...]:
    return x >> by, x << by, (x[..., None] >> by[:4]) & 1


def test_a_generator_of_its_own_stays_the_models() -> None:
    model = Call(lambda x: x + torch.randn(3, generator=torch.Generator().manual_seed(1))).eval()
    x = torch.randn(2, 3)
    with pytest.warns(UserWarning, match="torch.Generator"):
        fast = rt.compile(model, x)
    assert torch.equal(fast(x), model(x))


def test_an_input_that_nothing_reads_is_written_over_no_other() -> None:
    """int8 is copied into the plan, before any stage."""
    for width in (1, 12, 100):
        for read in range(3):
            model = Three(read).eval()
            given = [torch.randint(-128, 128, (2, width), dtype=torch.int8) for _ in range(3)]
            fast = rt.compile(model, tuple(given), strict=True)
            assert torch.equal(fast(*given), model(*given))


class Three(torch.nn.Module):
    def __init__(self, read: int) -> None:
        super().__init__()
        self.read = read

    def forward(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        return (a, b, c)[self.read].float() * 0.5
