"""Conv in plain torch: torch's own convolution, in float64 for int8, where every sum is exact."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from rtaccel.core.registry import Impl, Prepared, register_impl
from rtaccel.core.stage import Problem, Stage
from rtaccel.core.weight_format import WeightFormat
from rtaccel.kernels._common.geometry import Geometry, as_rows
from rtaccel.kernels.conv import contract, lowering, planes


def supports(problem: Problem) -> str | None:
    if problem.attrs.get("takes_mark") or problem.attrs.get("gives_mark"):
        return "marks no samples by itself; its plan does"
    if problem.weight_format in (WeightFormat.FLOAT32, WeightFormat.INT8):
        return None
    return f"has no form for {problem.weight_format} weights"


def prepare(stage: Stage, problem: Problem) -> Prepared:
    if planes.used(stage):
        inner = prepare(planes.by_position(stage), problem)
        return lambda x, *given: planes.around(stage, lambda _, *inputs: inner(*inputs), x, *given)
    low = lowering.lower(stage)
    int8 = low["weight"].dtype == torch.int8
    weight = low["weight"].double() if int8 else low["weight"]
    window = _ring(stage, low, int8) if lowering.is_stream(stage) else _image(stage)
    width = lowering.channels(stage)

    def call(x: Tensor, *given: Tensor) -> tuple[Tensor, ...]:
        other = given[-1] if low["residual"] else None
        rows, scale = contract.quantized(stage, x) if int8 else (as_rows(x, width), None)
        image, geometry, states = window(rows, given)
        pixels = image(rows.double() - low["x_zero_point"] if int8 else rows)
        t = geometry.rows(_convolved(pixels, weight, geometry, low["groups"]))
        if int8:
            t = t.float() * (low["multiplier"] if scale is None else low["multiplier"] * scale) + low["offset"]
        else:
            t = t + low["bias"]
        return (contract.epilogue(stage, low, t, other), *states)

    return call


def _convolved(pixels: Tensor, weight: Tensor, geometry: Geometry, groups: int) -> Tensor:
    if geometry.out_rows is None:
        return torch.nn.functional.conv2d(pixels, weight, None, geometry.stride, 0, geometry.dilation, groups)
    across = {"stride": (1, geometry.stride[1]), "dilation": (1, geometry.dilation[1]), "groups": groups}
    first, sums = torch.tensor(geometry.row_starts, device=pixels.device), pixels.new_zeros(())
    for row, below in enumerate(geometry.row_taps):
        sums = sums + torch.nn.functional.conv2d(pixels[:, :, first + below], weight[:, :, row : row + 1], **across)
    return sums


Window = Callable[[Tensor, tuple[Tensor, ...]], tuple[Callable[[Tensor], Tensor], Geometry, tuple[Tensor, ...]]]


def _image(stage: Stage) -> Window:
    geometry = Geometry.of(stage)
    geometry.index("conv")  # refuses in_steps that lack a position

    def window(
        rows: Tensor, given: tuple[Tensor, ...]
    ) -> tuple[Callable[[Tensor], Tensor], Geometry, tuple[Tensor, ...]]:
        return geometry.image, geometry, ()

    return window


class _Calls:
    """How many there were: a state, which an exchange of weights leaves as it is."""

    count = 0

    def exchange_key(self) -> object:
        return None


def _ring(stage: Stage, low: Mapping[str, Any], int8: bool) -> Window:
    """The columns in the order of time, as an image of one window. Counts the calls itself, as a native plan does, where none
    are given."""
    k, dilation = stage.attrs["kernel"][1], stage.attrs.get("dilation", (1, 1))[1]
    rows_of_ring = (k - 1) * dilation + 1
    geometry = Geometry((1, rows_of_ring), (1, k), (1, 1), (0, 0), (1, dilation), (1, 1))
    ticks, calls = low.get("ticks", 0), _Calls()

    def window(
        rows: Tensor, given: tuple[Tensor, ...]
    ) -> tuple[Callable[[Tensor], Tensor], Geometry, tuple[Tensor, ...]]:
        own = torch.full((len(rows),), calls.count, dtype=torch.int64, device=rows.device)
        tick = given[1].reshape(-1) if ticks else own
        calls.count += 1
        ring = contract.put_newest(as_rows(given[0], rows.shape[2]), rows, tick)
        newest_last = contract.by_age(ring, tick)

        def image(_: Tensor) -> Tensor:
            pixels = newest_last.double() - low["x_zero_point"] if int8 else newest_last
            return pixels.transpose(1, 2)[:, :, None]

        return image, geometry, (ring.reshape(given[0].shape),)

    return window


register_impl(Impl("conv", "portable_torch", "portable", 0, supports, prepare))
