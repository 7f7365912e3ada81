"""Whole numbers of one or two bytes: images, sound, what a sensor's converter gives. float32 holds them exactly."""

from __future__ import annotations

from collections.abc import Iterable

import torch

SMALL = {torch.uint8: (0, 255), torch.int8: (-128, 127), torch.int16: (-32768, 32767)}
"""dtype -> its least and its largest number."""


def holds(dtype: torch.dtype, dtypes: Iterable[torch.dtype], numbers: Iterable[float]) -> bool:
    """Whether a small dtype holds all that tensors of these dtypes hold, and these numbers."""
    low, high = SMALL[dtype]
    ranges = [(0, 1) if d == torch.bool else SMALL.get(d, (-float("inf"), 0)) for d in dtypes]
    return all(low <= a and b <= high for a, b in ranges) and all(low <= n <= high and n == int(n) for n in numbers)
