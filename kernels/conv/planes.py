"""Convolutions over planes: images of few channels with all positions of a channel side by side, as a caller's tensor has them.

With a row of channels for each position, one channel fills one lane of a vector; with planes vectors run over positions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import prod

import torch
from torch import Tensor

from rtaccel.core.errors import ShapeError
from rtaccel.core.registry import Tolerance
from rtaccel.core.stage import Stage, Value
from rtaccel.core.stage_traits import Planes
from rtaccel.kernels.conv import winograd

MAX_READ = 8
"""Channels up to which planes are read. Beyond, a row of channels fills vectors, and planes lie far apart."""
MAX_WRITTEN = 4
MAX_FLOATS_WRITTEN = 8
MAX_TO_PLANES = 64
"""Channels up to which planes are read where planes are written, too: each row of x is read in one piece then."""

Outputs = tuple[Tensor, ...]


def used(stage: Stage) -> bool:
    return bool(stage.attrs.get("x_planes") or stage.attrs.get("y_planes"))


def marks(stage: Stage) -> Mapping[str, int]:
    return {name: int(stage.attrs.get(name, 0)) for name in ("x_planes", "y_planes")} | {"winograd": 0}


def by_position(stage: Stage) -> Stage:
    """The same convolution with a row of channels for each position. Raises ShapeError where values are no planes."""
    attrs = {k: v for k, v in stage.attrs.items() if k not in ("x_planes", "y_planes")}
    if attrs.get("stream") or any(attrs.get(name) is not None for name in ("in_steps", "out_steps")):
        raise ShapeError("conv", "planes of a part of an image", "all positions", "Leave x_planes and y_planes out.")
    groups, (n, each) = int(attrs.get("groups", 1)), stage.tensors["weight"].shape[:2]
    (x, *others), y = stage.inputs, stage.outputs[0]
    if stage.attrs.get("x_planes"):
        x = _rows("x", x, each * groups, attrs["in_size"])
    if stage.attrs.get("y_planes"):
        y = _rows("y", y, n, attrs["out_size"])
        others = [_rows("other", v, n, attrs["out_size"]) for v in others]
    return replace(stage, inputs=(x, *others), outputs=(y,), attrs=attrs)


def _rows(name: str, value: Value, channels: int, size: tuple[int, int]) -> Value:
    if value.steps * value.width != channels * prod(size):
        raise ShapeError(
            "conv", f"{name}[{value.steps}, {value.width}]", f"{channels} planes of {size[0]} x {size[1]}",
            "Correct the stage.",
        )  # fmt: skip
    return replace(value, width=channels, steps=prod(size))


def around(stage: Stage, compute: Callable[..., Outputs], x: Tensor, *given: Tensor) -> Outputs:
    """What `compute` makes of the same convolution by position, brought into planes again."""
    plain = by_position(stage)
    (y,) = compute(plain, *rows_of(stage, x, *given))
    return (planes_of(stage, y),)


def rows_of(stage: Stage, *given: Tensor) -> list[Tensor]:
    """The inputs as the convolution by position has them."""
    rows = []
    for i, (x, value) in enumerate(zip(given, by_position(stage).inputs)):
        if stage.attrs.get("y_planes" if i else "x_planes"):
            x = x.reshape(x.shape[0], value.width, value.steps).transpose(1, 2).reshape(x.shape[0], *value.shape)
        rows.append(x)
    return rows


def planes_of(stage: Stage, y: Tensor) -> Tensor:
    """y as the stage gives it, of what the convolution by position gives."""
    value = by_position(stage).outputs[0]
    if not stage.attrs.get("y_planes"):
        return y
    turned = y.reshape(y.shape[0], value.steps, value.width).transpose(1, 2)
    return turned.reshape(y.shape[0], *stage.outputs[0].shape)


def tolerance(stage: Stage, compute: Callable[..., Tolerance], x: Tensor, *given: Tensor) -> Tolerance:
    found = compute(by_position(stage), *rows_of(stage, x, *given))
    return replace(found, atol=planes_of(stage, found.atol)) if isinstance(found.atol, Tensor) else found


def packed_bytes(stage: Stage) -> int:
    """Of the kernel over planes, beside those of the other kernels: weights as float32, and where each of them reads."""
    weight = stage.tensors["weight"]
    return 8 * (weight.shape[0] + 64) * (weight[0].numel() + 64) + 64 * sum(stage.attrs["out_size"])


class ConvPlanes(Planes):
    def read(self, stage: Stage) -> tuple[int, int, int] | None:
        channels = int(stage.tensors["weight"].shape[1]) * int(stage.attrs.get("groups", 1))
        most = MAX_TO_PLANES if stage.attrs.get("y_planes") else MAX_READ
        if channels > most or not _is_whole(stage, channels):
            return None
        groups = int(stage.attrs.get("groups", 1))
        if not stage.attrs.get("y_planes") and ((groups == channels and groups > 1) or winograd.tile(stage)):
            return None  # these have kernels of their own
        return (channels, *stage.attrs["in_size"])

    def written(self, stage: Stage) -> tuple[int, int, int] | None:
        filters = int(stage.tensors["weight"].shape[0])
        most = MAX_FLOATS_WRITTEN if stage.tensors["weight"].dtype == torch.float32 else MAX_WRITTEN
        if filters > most or not _is_whole(stage, filters):
            return None
        return (filters, *stage.attrs["out_size"])

    def beside(self, stage: Stage) -> tuple[int, ...]:
        return tuple(range(1, len(stage.inputs)))  # a residual

    def over(self, stage: Stage, x: Value | None, y: Value | None) -> Stage:
        attrs = {**stage.attrs}
        if x is not None:
            stage, attrs = replace(stage, inputs=(x, *stage.inputs[1:])), {**attrs, "x_planes": 1}
        if y is not None:
            stage, attrs = replace(stage, outputs=(y,)), {**attrs, "y_planes": 1}
        return replace(stage, attrs=attrs)


def _is_whole(stage: Stage, channels: int) -> bool:
    """Whether all positions are there, of one image; images side by side are planes of one channel only."""
    a = stage.attrs
    part = a.get("stream") or any(a.get(name) is not None for name in ("in_steps", "out_steps"))
    return not part and (a.get("out_rows") is None or channels == 1)
