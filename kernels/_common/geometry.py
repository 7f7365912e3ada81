"""Where a window operator (conv, pool) reads: positions of an image [H, W], row-major; a sequence has H = 1."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rtaccel.core.errors import ShapeError
from rtaccel.core.stage import Stage

Pair = tuple[int, int]


@dataclass(frozen=True)
class Geometry:
    """Output (oy, ox), tap (ty, tx) reads input (oy * stride + ty * dilation - padding) in both directions.

    in_size, kernel, stride, padding (top, left), dilation, out_size: (vertical, horizontal). What is read outside the
    image is padding; bottom and right padding follow from out_size.
    out_rows, tap_rows: instead of vertical strides and dilations, the first row that each output row reads, and how far below it
    each row of taps is; a kernel over three dimensions, or over images one below the other, is one over their rows.
    in_steps: sorted positions of the full image that the input value holds; out_steps: those that are computed. None
    for all of them.
    """

    in_size: Pair
    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair
    out_size: Pair
    in_steps: tuple[int, ...] | None = None
    out_steps: tuple[int, ...] | None = None
    out_rows: tuple[int, ...] | None = None
    tap_rows: tuple[int, ...] | None = None

    @classmethod
    def of(cls, stage: Stage) -> Geometry:
        """From the attrs of a stage. Raises ShapeError where they do not fit each other or the stage's values."""
        a: Mapping[str, Any] = stage.attrs
        made = cls(
            in_size=_pair(stage.op, a, "in_size"),
            kernel=_pair(stage.op, a, "kernel"),
            stride=_pair(stage.op, a, "stride", (1, 1)),
            padding=_pair(stage.op, a, "padding", (0, 0)),
            dilation=_pair(stage.op, a, "dilation", (1, 1)),
            out_size=_pair(stage.op, a, "out_size"),
            in_steps=None if a.get("in_steps") is None else tuple(a["in_steps"]),
            out_steps=None if a.get("out_steps") is None else tuple(a["out_steps"]),
            out_rows=None if a.get("out_rows") is None else tuple(a["out_rows"]),
            tap_rows=None if a.get("tap_rows") is None else tuple(a["tap_rows"]),
        )
        made._check(stage)
        return made

    def _check(self, stage: Stage) -> None:
        def require(ok: bool, got: str, expected: str) -> None:
            if not ok:
                raise ShapeError(stage.op, got, expected, "Correct the attributes of the stage.")

        for name in ("in_size", "kernel", "stride", "dilation", "out_size"):
            require(min(getattr(self, name)) >= 1, f"{name} {getattr(self, name)}", "numbers of at least 1")
        require(min(self.padding) >= 0, f"padding {self.padding}", "numbers of at least 0")
        require((self.out_rows is None) == (self.tap_rows is None), "rows of outputs or of taps alone", "both or none")
        for name, rows, count in (
            ("out_rows", self.out_rows, self.out_size[0]), ("tap_rows", self.tap_rows, self.kernel[0]),
        ):  # fmt: skip
            right = rows is None or (len(rows) == count and min(rows) >= 0)
            require(right, f"{name} {rows}", f"{count} numbers of at least 0")
        for name, steps, size, value in (
            ("in_steps", self.in_steps, self.in_size, stage.inputs[0]),
            ("out_steps", self.out_steps, self.out_size, stage.outputs[0]),
        ):
            total = size[0] * size[1]
            if steps is not None:
                require(
                    len(steps) > 0
                    and steps[0] >= 0
                    and steps[-1] < total
                    and all(a < b for a, b in itertools.pairwise(steps)),
                    f"{name} of {len(steps)} positions",
                    f"sorted positions, each once, in 0..{total - 1}",
                )
            count = total if steps is None else len(steps)
            flat = name == "in_steps" and steps is None and value.steps == 1 and value.width % total == 0
            require(value.steps == count or flat, f"value {value.name} of {value.steps} steps", f"{count} steps")

    @property
    def taps(self) -> int:
        return self.kernel[0] * self.kernel[1]

    @property
    def row_starts(self) -> tuple[int, ...]:
        """The first row of the padded image that each row of outputs reads."""
        return self.out_rows or tuple(i * self.stride[0] for i in range(self.out_size[0]))

    @property
    def row_taps(self) -> tuple[int, ...]:
        """How far below that each row of taps is."""
        return self.tap_rows or tuple(i * self.dilation[0] for i in range(self.kernel[0]))

    @property
    def reach(self) -> Pair:
        """Size of the padded image that the outputs read."""
        across = (self.out_size[1] - 1) * self.stride[1] + (self.kernel[1] - 1) * self.dilation[1] + 1
        return max(self.row_starts) + max(self.row_taps) + 1, across

    def index(self, op: str) -> Tensor:
        """int64 [out steps, taps]: the row of the input value that each tap reads; -1 for padding.

        Raises ShapeError where an output reads a position that in_steps leaves out.
        """
        (h, w), wo = self.in_size, self.out_size[1]
        out = torch.arange(self.out_size[0] * wo) if self.out_steps is None else torch.tensor(self.out_steps)
        tap = torch.arange(self.taps)
        starts, below = torch.tensor(self.row_starts), torch.tensor(self.row_taps)
        y = starts[out // wo][:, None] + below[tap // self.kernel[1]] - self.padding[0]
        x = (out % wo)[:, None] * self.stride[1] + (tap % self.kernel[1]) * self.dilation[1] - self.padding[1]
        inside = (y >= 0) & (y < h) & (x >= 0) & (x < w)
        position = torch.where(inside, y * w + x, torch.zeros_like(y))
        if self.in_steps is not None:
            row = torch.full((h * w,), -1)
            row[torch.tensor(self.in_steps)] = torch.arange(len(self.in_steps))
            lost = inside & (row[position] < 0)
            if lost.any():
                missing = int(position[lost][0])
                raise ShapeError(op, f"in_steps without {missing}", "every position that an output reads", "Add it.")
            position = row[position]
        return torch.where(inside, position, torch.full_like(position, -1))

    def image(self, x: Tensor) -> Tensor:
        """The padded image [M, C, *reach] of a value [M, in steps, C]; zero where there is padding or no step."""
        m, c = x.shape[0], x.shape[-1]
        full = as_rows(x, c)
        if self.in_steps is not None:
            full = x.new_zeros(m, self.in_size[0] * self.in_size[1], c)
            full[:, list(self.in_steps)] = as_rows(x, c)
        full = full.reshape(m, *self.in_size, c).permute(0, 3, 1, 2)
        (top, left), (height, width) = self.padding, self.reach
        below, right = height - top - self.in_size[0], width - left - self.in_size[1]
        return torch.nn.functional.pad(full, (left, right, top, below))

    def rows(self, image: Tensor) -> Tensor:
        """The inverse at the output: [M, N, *out_size] to [M, out steps, N]."""
        rows = image.flatten(2).transpose(1, 2)
        return rows if self.out_steps is None else rows[:, list(self.out_steps)]


def as_rows(x: Tensor, width: int) -> Tensor:
    """[M, steps, width] of a value [M, ...]. A size of -1 would leave the steps of no samples open."""
    return x.reshape(x.shape[0], math.prod(x.shape[1:]) // width, width)


def _pair(op: str, attrs: Mapping[str, Any], name: str, default: Pair | None = None) -> Pair:
    value = attrs.get(name, default)
    if not isinstance(value, tuple) or len(value) != 2 or not all(isinstance(v, int) for v in value):
        raise ShapeError(op, f"{name} {value!r}", "two whole numbers", "Give both directions; a sequence has height 1.")
    return value
