"""Scores of answers against float64, with bounds that follow from the roundings of their arithmetic."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import rtaccel as rt

STEP = 2.0**-24
"""Half the distance of float32 numbers from 1 on: what one rounding changes at most, as a share."""

EXPONENTIAL = 4 * STEP
"""Of an exponential: 2 ulp, where an ulp is two halves."""

TESTS = ("confidence", "margin", "entropy", "energy")


def scores(test: str, y: Tensor) -> np.ndarray:
    exit = rt.Exit(test, below=0.0) if test == "entropy" else rt.Exit(test, above=0.0)
    return exit.scores(y).double().numpy()


def drawn(seed: int, width: int, size: float) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return size * torch.randn(64, width, generator=g)


def wanted(test: str, y: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The score and by how much it may be off. A sum of `width` numbers is rounded as often as it has additions in a row."""
    x = y.double().numpy()
    x = np.sort(x, axis=1)[:, ::-1]
    top, below = x[:, :1], x - x[:, :1]
    total = np.exp(below).sum(1)
    # float32's own difference, its exponential, the additions: shares of the sum. The differences weigh as their exponentials do.
    differences = STEP * (np.exp(below) * np.abs(below)).sum(1) / total
    share = differences + EXPONENTIAL + (math.ceil(x.shape[1] / 4) + 2) * STEP
    if test == "confidence":
        return 1 / total, (share + STEP) / total
    if test == "margin":
        second = np.exp(below[:, 1])
        own = second * (EXPONENTIAL + STEP * np.abs(below[:, 1])) + STEP
        return (1 - second) / total, own / total + (share + STEP) * (1 - second) / total
    if test == "energy":
        value = top[:, 0] + np.log(total)
        return value, share + 2 * STEP * np.abs(value) + 1e-10
    spread = (np.exp(below) * np.abs(below)).sum(1) / total
    squares = (np.exp(below) * below**2).sum(1) / total
    value = np.log(total) + spread
    # what a difference is off changes its product by itself and by its exponential; a product is rounded once more
    return value, share * (1 + 2 * spread) + STEP * (2 * spread + squares) + 2 * STEP * np.abs(value) + 1e-10


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 70), st.sampled_from([1e-6, 1e-2, 0.3, 1.0, 3.0, 10.0, 30.0]))
def test_scores_against_float64(seed: int, width: int, size: float) -> None:
    y = drawn(seed, width, size)
    for test in TESTS:
        value, bound = wanted(test, y)
        off = np.abs(scores(test, y) - value)
        assert (off <= bound).all(), f"{test}: off by {off.max():.3g}, {bound[off.argmax()]:.3g} permitted"


def test_the_logarithm_of_every_whole_number() -> None:
    """Of n equal answers the sum is n, without a rounding: the logarithm alone is left, in each part of its table."""
    for width in [*range(2, 1100), *range(4097, 16384, 61)]:
        found, value = float(scores("energy", torch.zeros(1, width))[0]), math.log(width)
        half = float(np.spacing(np.float32(value))) / 2
        assert abs(found - value) <= half * 1.001, f"ln {width} is {found!r}"
        assert scores("entropy", torch.full((1, width), 3.0))[0] == found


@pytest.mark.parametrize("value", [-1e30, -5.5, 0.0, 1e-30, 0.1, 3.0, 1e30])
def test_one_answer_that_is_all_has_a_logarithm_of_exactly_0(value: float) -> None:
    y = torch.tensor([[-math.inf, value], [value, -math.inf]])
    first = torch.tensor(value, dtype=torch.float32).item()
    for test, wants in (("energy", first), ("entropy", 0.0), ("confidence", 1.0), ("margin", 1.0)):
        assert (scores(test, y) == wants).all()


def test_what_is_far_below_counts_nothing() -> None:
    for low in (-87.5, -1e3, -1e30, -3.4e38, -math.inf):
        y = torch.tensor([[0.0, low, 0.0, low, low]])
        assert scores("confidence", y)[0] == 0.5
        assert scores("energy", y)[0] == np.float32(math.log(2))
        assert scores("entropy", y)[0] == np.float32(math.log(2))


def test_surer_the_farther_the_other_one_is() -> None:
    """Differences below 0.35, where nothing is scaled by a power of two, and beyond."""
    steps = torch.linspace(0, 86, 4001)
    y = torch.stack([torch.zeros(4001), -steps], 1)
    found = scores("confidence", y)
    value = 1 / (1 + np.exp(-steps.double().numpy()))
    assert (np.abs(found - value) <= value * (EXPONENTIAL + 2 * STEP)).all()
    assert (np.diff(found) >= 0).all()
