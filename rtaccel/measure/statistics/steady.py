"""Where a run becomes steady: how many of its first samples are still warm-up."""

from __future__ import annotations

from typing import Any

import numpy as np

_BLOCKS = 60
_CLEAR = 0.05


def steady_from(samples: Any) -> int | None:
    """Index of the first sample of the steady part, 0 for a run that is steady all through; None where none is.

    The rule MSER (K. P. White, Simulation 69, 1997) on the medians of 60 blocks: what is left after the first d blocks
    is steady for the d that gives their mean the least standard error, sum (y - mean y)^2 / (blocks - d)^2. A d of more
    than half the run finds nothing steady. A first part whose median is within 5 % of the rest's is no warm-up.

    samples: array [n] in the order measured. Raises nothing; fewer than 120 samples are called steady.
    """
    values = np.asarray(samples, dtype=np.float64)
    if len(values) < 2 * _BLOCKS:
        return 0
    length = len(values) // _BLOCKS
    medians = np.median(values[: length * _BLOCKS].reshape(_BLOCKS, length), axis=1)
    errors = [
        float(((rest := medians[d:]) - rest.mean()).__pow__(2).sum() / len(rest) ** 2) for d in range(_BLOCKS - 4)
    ]
    cut = int(np.argmin(errors))
    if cut == 0:
        return 0
    before, after = float(np.median(medians[:cut])), float(np.median(medians[cut:]))
    if abs(before - after) <= _CLEAR * min(before, after):
        return 0
    return cut * length if cut <= _BLOCKS // 2 else None
