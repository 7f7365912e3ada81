"""Pooling over planes: images with all positions of a channel side by side, as a caller's tensor has them."""

from __future__ import annotations

from dataclasses import replace
from math import prod

from torch import Tensor

from rtaccel.core.errors import ShapeError
from rtaccel.core.stage import Stage, Value
from rtaccel.core.stage_traits import Planes
from rtaccel.kernels.pool.windows import image_of, taps_of

MAX_INT8 = 65_536
"""Positions of a window over planes of int8: their sum is a whole number that float32 holds."""


def by_position(stage: Stage) -> Stage:
    """The same stage with a row of channels for each position. Raises ShapeError where its values are no planes."""
    (height, width), (rows, columns) = image_of(stage.attrs)
    x, y = stage.inputs[0], stage.outputs[0]
    c = x.steps * x.width // (height * width)
    whole = x.steps * x.width == c * height * width and y.steps * y.width == c * rows * columns
    if not whole or any(stage.attrs.get(name) is not None for name in ("in_steps", "out_steps", "out_rows")):
        raise ShapeError(
            "pool", f"[{x.steps}, {x.width}] to [{y.steps}, {y.width}]",
            f"planes of {height} x {width} to planes of {rows} x {columns}", "Correct the stage.",
        )  # fmt: skip
    attrs = {k: v for k, v in stage.attrs.items() if k != "planes"}
    x, y = replace(x, width=c, steps=height * width), replace(y, width=c, steps=rows * columns)
    return replace(stage, inputs=(x,), outputs=(y,), attrs=attrs)


def rows_of(stage: Stage, x: Tensor) -> Tensor:
    """Planes as the stage by position has them."""
    value = by_position(stage).inputs[0]
    return x.reshape(x.shape[0], value.width, value.steps).transpose(1, 2).reshape(x.shape[0], *value.shape)


def planes_of(stage: Stage, y: Tensor) -> Tensor:
    """What the stage by position gives, as planes."""
    value = by_position(stage).outputs[0]
    turned = y.reshape(y.shape[0], value.steps, value.width).transpose(1, 2)
    return turned.reshape(y.shape[0], *stage.outputs[0].shape)


class PoolPlanes(Planes):
    together = True

    def read(self, stage: Stage) -> tuple[int, int, int] | None:
        x, own = stage.inputs[0], image_of(stage.attrs)[0]
        part = any(stage.attrs.get(name) is not None for name in ("in_steps", "out_steps", "out_rows"))
        if part or (x.dtype == "int8" and taps_of(stage.attrs) > MAX_INT8):
            return None
        return (x.steps * x.width // prod(own), *own)

    def written(self, stage: Stage) -> tuple[int, int, int] | None:
        read = self.read(stage)
        return None if read is None else (read[0], *image_of(stage.attrs)[1])

    def over(self, stage: Stage, x: Value | None, y: Value | None) -> Stage:
        x, y = x or stage.inputs[0], y or stage.outputs[0]
        return replace(stage, inputs=(x,), outputs=(y,), attrs={**stage.attrs, "planes": 1})
