"""Resize and Upsample: torch's interpolation where it is the same, else products with a matrix of weights per dimension."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rtaccel.convert.onnx import numbers as n
from rtaccel.convert.onnx.table import op
from rtaccel.core.errors import UnsupportedProblem

LINEAR = "linear"
"""The mode of a Resize."""


@op("Upsample", since=7)
def upsample_7(x: Tensor, *, scales: Sequence[float], mode: str = "nearest") -> Tensor:
    return _resized(x, list(scales), None, mode=mode, transform="asymmetric")


@op("Upsample", since=9, numbers=(1,))
def upsample(x: Tensor, scales: n.Numbers, *, mode: str = "nearest") -> Tensor:
    return _resized(x, n.floats(scales), None, mode=mode, transform="asymmetric")


@op("Resize", since=10, numbers=(1,))
def resize_10(x: Tensor, scales: n.Numbers, *, mode: str = "nearest") -> Tensor:
    return _resized(x, n.floats(scales), None, mode=mode, transform="asymmetric")


@op("Resize", since=11, numbers=(1, 2, 3))
def resize(
    x: Tensor, roi: n.Numbers = None, scales: n.Numbers = None, sizes: n.Numbers = None, *, antialias: int = 0,
    axes: Any = None, coordinate_transformation_mode: str = "half_pixel", cubic_coeff_a: float = -0.75,
    exclude_outside: int = 0, extrapolation_value: float = 0.0, keep_aspect_ratio_policy: str = "stretch",
    mode: str = "nearest", nearest_mode: str = "round_prefer_floor",
) -> Tensor:  # fmt: skip
    for bad in (antialias and "antialias=1", keep_aspect_ratio_policy != "stretch" and "keep_aspect_ratio_policy",
                coordinate_transformation_mode == "tf_crop_and_resize" and "tf_crop_and_resize"):  # fmt: skip
        if bad:
            raise UnsupportedProblem("Resize", str(bad), "a resize of the whole input", "Export without it.")
    factors = None if scales is None or not len(n.floats(scales)) else n.floats(scales)
    wanted = None if sizes is None or not len(n.ints(sizes)) else n.ints(sizes)
    if axes is not None:
        places = [a % x.dim() for a in axes]
        if factors is not None:
            factors = [factors[places.index(i)] if i in places else 1.0 for i in range(x.dim())]
        if wanted is not None:
            wanted = [wanted[places.index(i)] if i in places else x.shape[i] for i in range(x.dim())]
    return _resized(
        x, factors, wanted, mode=mode, transform=coordinate_transformation_mode, nearest=nearest_mode, a=cubic_coeff_a,
        exclude=bool(exclude_outside),
    )  # fmt: skip


def _resized(
    x: Tensor, scales: Sequence[float] | None, sizes: Sequence[Any] | None, *, mode: str, transform: str,
    nearest: str = "floor", a: float = -0.75, exclude: bool = False,
) -> Tensor:  # fmt: skip
    if scales is None:
        assert sizes is not None
        scales = [1.0 if isinstance(s, torch.SymInt) else s / d for s, d in zip(sizes, x.shape)]
    else:
        sizes = [d if s == 1.0 else math.floor(d * s) for s, d in zip(scales, x.shape)]
    changed = [i for i in range(x.dim()) if scales[i] != 1.0]
    if not changed:
        return x
    whole = all(float(scales[i]).is_integer() and scales[i] >= 1 for i in changed)
    if min(changed) >= 2 and 3 <= x.dim() <= 5 and not exclude:
        target = list(sizes[2:])
        linear = {3: "linear", 4: "bilinear", 5: "trilinear"}[x.dim()]
        ratios = all(sizes[i] == x.shape[i] * scales[i] for i in changed)
        if (
            mode == "nearest"
            and whole
            and (
                (transform == "asymmetric" and nearest == "floor")
                or (
                    transform in ("half_pixel", "pytorch_half_pixel", "half_pixel_symmetric")
                    and nearest.startswith("round_prefer")
                )
            )
        ):
            return F.interpolate(x, target, mode="nearest")
        if mode == LINEAR and transform == "align_corners":
            return F.interpolate(x, target, mode=linear, align_corners=True)
        half = transform in ("half_pixel", "half_pixel_symmetric") or (
            transform == "pytorch_half_pixel" and all(s > 1 for s in target)
        )
        if mode == LINEAR and half and ratios:
            return F.interpolate(x, target, mode=linear, align_corners=False)
        if mode == "cubic" and half and ratios and a == -0.75 and x.dim() == 4:
            return F.interpolate(x, target, mode="bicubic", align_corners=False)
    for axis in changed:
        weights = weights_of(int(x.shape[axis]), int(sizes[axis]), scales[axis], mode, transform, nearest, a, exclude)
        x = torch.matmul(x.movedim(axis, -1), torch.from_numpy(weights.T.copy()).to(x.dtype)).movedim(-1, axis)
    return x


@op("GridSample")
def grid_sample(
    x: Tensor, grid: Tensor, *, align_corners: int = 0, mode: str = "linear", padding_mode: str = "zeros"
) -> Tensor:
    kind = {LINEAR: "bilinear", "cubic": "bicubic"}.get(mode, mode)
    return F.grid_sample(x, grid, kind, padding_mode, bool(align_corners))


def weights_of(
    size: int, wanted: int, scale: float, mode: str, transform: str, nearest: str, a: float, exclude: bool
) -> np.ndarray:
    """[wanted, size]: what each output takes of each input."""
    y = np.arange(wanted, dtype=np.float64)
    if transform == "asymmetric":
        at = y / scale
    elif transform == "align_corners":
        at = y * (size - 1) / (wanted - 1) if wanted > 1 else np.zeros_like(y)
    elif transform == "pytorch_half_pixel" and wanted == 1:
        at = np.zeros_like(y)
    elif transform == "half_pixel_symmetric":
        adjust = wanted / (scale * size)
        at = size / 2 * (1 - adjust) + (y + 0.5) / scale - 0.5
    elif transform in ("half_pixel", "pytorch_half_pixel"):
        at = (y + 0.5) / scale - 0.5
    elif transform == "tf_half_pixel_for_nn":
        at = (y + 0.5) / scale
    else:
        raise UnsupportedProblem("Resize", f"coordinate_transformation_mode={transform!r}", "another", "Export again.")
    made = np.zeros((wanted, size))
    for i, place in enumerate(at):
        if mode == "nearest":
            taps = [(_nearest(place, nearest), 1.0)]
        elif mode == LINEAR:
            place = min(max(place, 0.0), size - 1.0)
            low = math.floor(place)
            taps = [(low, 1 - (place - low)), (low + 1, place - low)]
        else:
            low = math.floor(place)
            taps = [(low + k, _cubic(place - (low + k), a)) for k in range(-1, 3)]
            if exclude:
                taps = [(j, v if 0 <= j < size else 0.0) for j, v in taps]
                total = sum(v for _, v in taps)
                taps = [(j, v / total) for j, v in taps]
        for j, value in taps:
            made[i, min(max(j, 0), size - 1)] += value
    return made


def _nearest(place: float, mode: str) -> int:
    if mode == "floor":
        return math.floor(place)
    if mode == "ceil":
        return math.ceil(place)
    return math.ceil(place - 0.5) if mode == "round_prefer_floor" else math.floor(place + 0.5)


def _cubic(d: float, a: float) -> float:
    d = abs(d)
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a if d < 2 else 0.0
