"""Which rows of an image the windows of `pool` read, and what an average divides by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise
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
    index = _joined(sizes, given)
    columns = [torch.tensor(own, dtype=torch.float32) for own in divisors]
    return Windows(index, reduce(lambda a, b: (a[:, None] * b).reshape(-1), columns))


def _joined(sizes: Sequence[int], given: Sequence[Sequence[Sequence[int]]]) -> Tensor:
    """int64 [outputs, taps]: of several dimensions, the positions of each window; -1 where there is none."""
    index = torch.zeros(1, 1, dtype=torch.int64)
    for size, own in zip(sizes, given):
        taps = max(1, *(len(window) for window in own))
        one = torch.tensor([[*window, *[-1] * (taps - len(window))] for window in own])
        joined = index[:, None, :, None] * size + one[None, :, None, :]
        empty = (index < 0)[:, None, :, None] | (one < 0)[None, :, None, :]
        index = joined.masked_fill(empty, -1).reshape(index.shape[0] * len(own), -1)
    return index


@dataclass(frozen=True)
class Lines:
    """Windows over an image of rows: those that each row of outputs reads, and the columns of each output along it.

    rows: int64 [out rows, taps], -1 for none; columns: the same along a row. stride, dilation, before: output o reads the columns
    o * stride + t * dilation - before that there are; stride 0 where no numbers say it.
    """

    rows: Tensor
    columns: Tensor
    stride: int
    dilation: int
    before: int


def image_of(attrs: Mapping[str, Any]) -> tuple[tuple[int, int], tuple[int, int]]:
    """(rows, columns) of the image, and of the outputs: dimensions before the last are rows."""
    sizes = attrs["in_size"]
    outs = tuple(len(own) for own in attrs["windows"]) if "windows" in attrs else attrs["out_size"]
    return (prod(sizes[:-1]), sizes[-1]), (prod(outs[:-1]), outs[-1])


def lines_of(attrs: Mapping[str, Any]) -> Lines:
    """Of attrs windows, or of a geometry with all positions."""
    given = attrs.get("windows")
    if given is None:
        defaults = {
            "in_size": None,
            "out_size": None,
            "kernel": None,
            "stride": (1, 1),
            "padding": (0, 0),
            "dilation": (1, 1),
        }
        pairs = zip(*(attrs.get(name, default) for name, default in defaults.items()))
        given = tuple(
            tuple(tuple(i for i in range(o * s - p, o * s - p + k * d, d) if 0 <= i < n) for o in range(out))
            for n, out, k, s, p, d in pairs
        )
    columns = given[-1]
    regular = _regular(columns, attrs["in_size"][-1])
    return Lines(_joined(attrs["in_size"][:-1], given[:-1]), _joined((0,), (columns,)), *regular)


def _regular(windows: Sequence[Sequence[int]], size: int) -> tuple[int, int, int]:
    """stride, dilation and padding in front that give these windows; 0, 1, 0 where none do."""
    taps = max(len(window) for window in windows)
    whole = [o for o, window in enumerate(windows) if len(window) == taps]
    first = whole[0]
    dilation = windows[first][1] - windows[first][0] if taps > 1 else 1
    strides = {windows[b][0] - windows[a][0] for a, b in pairwise(whole) if b == a + 1} or {taps * dilation, 1}
    for stride in strides:
        before = first * stride - windows[first][0]
        made = (
            tuple(
                i for i in range(o * stride - before, o * stride - before + taps * dilation, dilation) if 0 <= i < size
            )
            for o in range(len(windows))
        )
        if stride > 0 and dilation > 0 and before >= 0 and all(a == tuple(b) for a, b in zip(made, windows)):
            return stride, dilation, before
    return 0, 1, 0


def taps_of(attrs: Mapping[str, Any]) -> int:
    """Positions of the largest window."""
    if "windows" in attrs:
        return prod(max(len(window) for window in own) for own in attrs["windows"])
    return int(prod(attrs["kernel"]))
