"""AUROC: how well a score tells two classes apart, whatever the threshold."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from rtaccel.core.errors import FormatError


def auroc(scores: ArrayLike, positive: ArrayLike) -> float:
    """P(score of a positive > score of a negative) + P(equal) / 2, over all such pairs.

    scores: [n] numbers, infinities included. positive: [n] booleans. From ranks, n log n: with mean ranks r for ties,
    (sum of r over the positives - p (p + 1) / 2) / (p (n - p)) for p positives; this is the Mann-Whitney U statistic
    over its largest value (J. A. Hanley and B. J. McNeil, Radiology 143, 1982).

    A NaN among the scores has no place in an order, and makes the result NaN. Raises FormatError for shapes that
    differ, and when one class is missing.
    """
    values, classes = np.asarray(scores, dtype=np.float64), np.asarray(positive, dtype=bool)
    if values.ndim != 1 or values.shape != classes.shape:
        got = f"scores {list(values.shape)}, classes {list(classes.shape)}"
        raise FormatError("auroc", got, "two vectors of one length", "Pass one score and one class per sample.")
    p = int(classes.sum())
    n = len(values)
    if p in (0, n):
        raise FormatError("auroc", f"{p} positives of {n} samples", "both classes", "Take more samples.")
    if np.isnan(values).any():
        return math.nan
    _, where, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[where]  # of equal values, the mean of the ranks they share
    return float((ranks[classes].sum() - p * (p + 1) / 2) / (p * (n - p)))
