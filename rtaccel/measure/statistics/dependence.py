"""How many independent calls a run of dependent ones is worth, for a claim about the calls over a limit.

Calls on a real machine are not independent: an interruption, a slow mode or a drift of the clock frequency makes several
in a row exceed a limit. Then the number over the limit varies more than a binomial one, and a bound that takes it for one
is too narrow. The inflation D is the variance of that number over what independent calls would give: n calls are worth
n / D, and k exceedances k / D. That is the design effect of L. Kish (Survey Sampling, 1965) with the bounds of
E. L. Korn and B. I. Graubard (Survey Methodology 24, 1998) for a proportion under it.

D comes from batch means: the run is cut into blocks of 2, 4, 8, ... calls, down to 16 blocks (6 in a short run), and the
variance of the numbers per block is set against the binomial one. The largest ratio counts that chance does not explain
(1.3 standard deviations of what independent calls would show, with a correction for the skewness of rare pairs). It is
uncertain itself, from few blocks and from few clusters, so it is multiplied by the square of Student's 99 % quantile over the
normal one, for as many degrees of freedom as there are blocks less one, or clusters where these are fewer, and by 1.1.

Where fewer than 32 calls exceed the limit, they do not show how they cluster; then those of the 32 slowest calls stand for
them that take at least half the limit. Calls far below it are another matter: how a call of 1 us becomes one of 1.2 us says
nothing about calls over 50 us.

What a run never meets it cannot count. Disturbances are seen when they are much shorter than the run (a rare slow mode:
when the run is some 500 times as long as one visit); `python -m rtaccel.measure.selftest` shows where that ends.
"""

from __future__ import annotations

import math

import numpy as np

MIN_BLOCKS = 16
"""Fewer blocks say too little about a variance."""

SHORT_RUN = 640
"""A run of fewer calls is cut down to 6 blocks: 16 would be too short to hold what makes calls dependent."""

ENOUGH_EXCEEDANCES = 32
"""So many calls over a limit show how they cluster."""

_GATE = 1.3
_MARGIN = 1.1
_FINEST_BLOCKS = 2**15
_Z99 = 2.3263478740408408


def inflation(places: np.ndarray, n: int) -> float:
    """D of marked calls, 1 or above. places: int64 [k], where in a run of n calls the marked ones are, in any order."""
    if len(places) < 2 or len(places) >= n:
        return 1.0
    fewest = MIN_BLOCKS if n >= SHORT_RUN else 6
    length = max(2, n // _FINEST_BLOCKS)
    if n // length < fewest:
        return 1.0
    counts = np.bincount(places // length, minlength=n // length)[: n // length]
    largest = 1.0
    while len(counts) >= fewest:
        largest = max(largest, _excess(counts, length))
        counts = counts[: len(counts) // 2 * 2].reshape(-1, 2).sum(axis=1)
        length *= 2
    return largest


def _excess(counts: np.ndarray, length: int) -> float:
    """Variance of the counts over the binomial one where it is clearly more, enlarged for what is uncertain; else 1."""
    blocks, marked = len(counts), int(counts.sum())
    share = marked / (blocks * length)
    if marked < 2 or share == 1:
        return 1.0
    squares = int(np.dot(counts, counts))
    ratio = (squares - marked * marked / blocks) / (blocks - 1) / (length * share * (1 - share))
    deviations = (ratio - 1) * math.sqrt((blocks - 1) / 2)
    # Few pairs of marked calls in one block are Poisson and skewed: Cornish-Fisher, and half a pair for continuity.
    pairs = marked * (marked - 1) / (2 * blocks) * (1 - share) ** 2
    if deviations <= _GATE + ((_GATE**2 - 1) / 6 + 0.5) / math.sqrt(max(pairs, 1e-3)):
        return 1.0
    clusters = round(min(marked, blocks * length - marked) / ratio)
    return _MARGIN * ratio * (_student99(max(3, min(blocks - 1, clusters))) / _Z99) ** 2


def _student99(df: int) -> float:
    """The 99 % quantile of Student's t: Abramowitz and Stegun 26.7.5, within 3 % for 3 degrees and 1e-3 for 15."""
    z = _Z99
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return z + sum(term / df**power for power, term in enumerate(terms, 1))
