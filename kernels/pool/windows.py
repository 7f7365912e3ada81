"""Which rows of an image the windows of `pool` read, and what an average divides by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from math import prod
from typing import Any

import torch
from torch import Tensor

from rtaccel.core.errors import ShapeError
from rtaccel.core.stage import Stage
from rtaccel.kernels._common.geometry import Geometry


@dataclass(frozen=True)
class Windows:
    """index: int64 [out steps, taps], the row of x for each position of a window; -1 where there is none. divisor: float32 [out
    steps], of an average."""

    index: Tensor
    divisor: Tensor


def windows_of(stage: Stage) -> Windows:
    """From attrs windows and divisors, or from a geometry. Raises ShapeError where they do not fit the values."""
    if "windows" in stage.attrs:
        return _by_dimension(stage)
    geometry = Geometry.of(stage)
    index = geometry.index("pool")
    inside = (index >= 0).sum(1)
    every = torch.full_like(inside, geometry.taps)
    return Windows(index, (every if stage.attrs.get("count_include_pad", 1) else inside).float())


def _by_dimension(stage: Stage) -> Windows:
    sizes, given = stage.attrs["in_size"], stage.attrs["windows"]
    divisors = stage.attrs.get("divisors", tuple(tuple(len(w) for w in own) for own in given))
    counts = tuple(len(own) for own in given)
    x, y = stage.inputs[0], stage.outputs[0]
    inside = all(0 <= at < n for n, own in zip(sizes, given) for window in own for at in window)
    alike = len(sizes) == len(given) == len(divisors) and counts == tuple(len(own) for own in divisors)
    if not alike or not inside or (x.steps, y.steps) != (prod(sizes), prod(counts)):
        raise ShapeError(
            "pool", f"windows {counts} over {sizes} of {x.steps} steps to {y.steps}",
            "windows inside the image for each output of each dimension, and a divisor for each", "Correct the stage.",
        )  # fmt: skip
    index = torch.zeros(1, 1, dtype=torch.int64)
    for size, own in zip(sizes, given):
        taps = max(1, *(len(window) for window in own))
        one = torch.tensor([[*window, *[-1] * (taps - len(window))] for window in own])
        joined = index[:, None, :, None] * size + one[None, :, None, :]
        empty = (index < 0)[:, None, :, None] | (one < 0)[None, :, None, :]
        index = joined.masked_fill(empty, -1).reshape(index.shape[0] * len(own), -1)
    columns = [torch.tensor(own, dtype=torch.float32) for own in divisors]
    return Windows(index, reduce(lambda a, b: (a[:, None] * b).reshape(-1), columns))


def taps_of(attrs: Mapping[str, Any]) -> int:
    """Positions of the largest window."""
    if "windows" in attrs:
        return prod(max(len(window) for window in own) for own in attrs["windows"])
    return int(prod(attrs["kernel"]))
