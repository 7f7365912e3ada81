"""Grid sample: y[n, c, p] = sum over taps of w[n, p, t] * x[n, c, i[n, p, t]], places i and weights w of the points of a grid.

attrs["sizes"]: of the image, (H, W) or (D, H, W). attrs["images"]: in a sample. attrs["channels_last"]: 1 where a row is the
channels of a position, x [images * positions, C] and y [images * P, C]; 0 where it is a plane, x [images * C, positions] and
y [images * C, P]. grid [images * P, 2 or 3], its last number along H or D: an input, or a tensor, the same for all samples.

attrs["mode"]: 0 linear, 1 nearest, 2 cubic (of two sizes). attrs["padding"]: 0 zeros, 1 border, 2 reflection. attrs["align"]: 1
where -1 and 1 are the middles of the last pixels, 0 where they are their edges.

Formulas: torch.nn.functional.grid_sample, coordinates in float32:

    place = (g + 1) * (size - 1) / 2 with align, (g + 1) * size / 2 - 1 / 2 without
    reflection: off = |place - low|, turned back by the parity of floor(off / span); border: 0 <= place <= size - 1

A tap outside is 0. A coordinate that is NaN: as torch has it. In two dimensions it is the first place where places are kept
inside, and its weights are NaN elsewhere. In three dimensions it is the last place, or outside.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import product
from math import prod
from typing import Any

import torch
from torch import Tensor

from rtaccel.core.errors import ShapeError
from rtaccel.core.registry import Case, Cost, Operator, Tolerance, register_operator
from rtaccel.core.stage import Problem, Stage, Value

LINEAR, NEAREST, CUBIC = range(3)
ZEROS, BORDER, REFLECTION = range(3)
SLOPE = -0.75
"""Of the cubic kernel, one tap away."""
MAX_POSITIONS = 2**22
"""Positions of an image: every set rounds float32 up to there to whole numbers."""
OUTSIDE = -1e9


def shape_of(stage: Stage) -> tuple[int, int, int]:
    """(channels, positions, points) of an image. Raises ShapeError where the attributes do not fit the values."""
    x, y, a = stage.inputs[0], stage.outputs[0], stage.attrs
    given = stage.inputs[1:]
    rows, rank = (given[0].steps, given[0].width) if given else tuple(stage.tensors["grid"].shape)
    sizes, images, last = tuple(a["sizes"]), int(a["images"]), bool(a["channels_last"])
    positions = prod(sizes)
    channels, points = (x.width, rows // max(images, 1)) if last else (x.steps // max(images, 1), y.width)
    wanted = (
        ((images * positions, channels), (images * points, channels)) if last
        else ((images * channels, positions), (images * channels, points))
    )  # fmt: skip
    fits = (x.steps, x.width) == wanted[0] and (y.steps, y.width) == wanted[1]
    if not fits or (rows, rank) != (images * points, len(sizes)) or len(sizes) not in (2, 3):
        raise ShapeError(
            "grid_sample", f"x [{x.steps}, {x.width}], a grid [{rows}, {rank}] and y [{y.steps}, {y.width}]",
            f"{images} images of {sizes} with a point of {len(sizes)} numbers for each place of y", "Correct the stage.",
        )  # fmt: skip
    cubic_in_space = a["mode"] == CUBIC and len(sizes) != 2
    if (
        positions > MAX_POSITIONS
        or min(sizes, default=0) < 1
        or cubic_in_space
        or not 0 <= a["mode"] <= 2
        or not 0 <= a["padding"] <= 2
    ):
        raise ShapeError(
            "grid_sample", f"images of {sizes}, mode {a['mode']}, padding {a['padding']}",
            f"up to {MAX_POSITIONS} positions, modes and paddings 0 to 2, cubic in two dimensions", "Correct the stage.",
        )  # fmt: skip
    return channels, positions, points


def lower(stage: Stage) -> Mapping[str, Any]:
    shape_of(stage)
    a = stage.attrs
    return {
        "sizes": tuple(int(n) for n in a["sizes"]),
        "rank": len(a["sizes"]),
        **{name: int(a[name]) for name in ("images", "channels_last", "mode", "padding", "align")},
        **stage.tensors,
    }


def _kept_inside(place: Tensor, size: int, padding: int, align: bool, rank: int) -> Tensor:
    """The place that the padding gives for one outside."""
    if padding == ZEROS:
        return place
    if padding == REFLECTION:
        low, high = (0.0, size - 1.0) if align else (-0.5, size - 0.5)
        if high > low:
            span = high - low
            off = (place - low).abs()
            times = (off / span).floor()
            extra = off - times * span
            odd = times - 2.0 * (times * 0.5).floor()
            place = torch.where(odd > 0.5, high - extra, extra + low)
        else:
            place = place * 0.0
    if rank == 2:
        return torch.where(place > 0.0, place.clamp_max(size - 1.0), 0.0)
    return torch.where(place < size - 1.0, place.clamp_min(0.0), size - 1.0)


def _taps(point: Tensor, size: int, mode: int, padding: int, align: bool, rank: int) -> list[tuple[Tensor, Tensor]]:
    """(place, OUTSIDE where there is none, and weight) of each tap in one dimension."""
    place = (point + 1.0) * ((size - 1) / 2.0) if align else (point + 1.0) * (size / 2.0) - 0.5

    def valid(at: Tensor) -> Tensor:
        return torch.where((at > -1.0) & (at < float(size)), at, OUTSIDE)

    if mode == CUBIC:
        first = place.floor()
        t, a = place - first, SLOPE

        def far(x: Tensor) -> Tensor:
            return ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a

        def near(x: Tensor) -> Tensor:
            return ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0

        weights = (far(t + 1.0), near(t), near(1.0 - t), far(2.0 - t))
        return [(valid(_kept_inside(first + i - 1.0, size, padding, align, rank)), w) for i, w in enumerate(weights)]
    place = _kept_inside(place, size, padding, align, rank)
    if mode == NEAREST:
        at = place.round()
        return [(valid(at), torch.ones_like(at))]
    below = place.floor()
    above = below + 1.0
    return [(valid(below), above - place), (valid(above), place - below)]


def taps_of(stage: Stage, grid: Tensor) -> tuple[Tensor, Tensor]:
    """grid [.., rank] float32 -> (positions int64 [.., taps], -1 outside, and weights [.., taps])."""
    a, sizes = stage.attrs, stage.attrs["sizes"]
    rank = len(sizes)
    each = [
        _taps(grid[..., rank - 1 - d], size, a["mode"], a["padding"], bool(a["align"]), rank)
        for d, size in enumerate(sizes)
    ]
    at, weights = [], []
    for chosen in product(*each):
        index, weight = torch.zeros_like(grid[..., 0]), torch.ones_like(grid[..., 0])
        for (place, own), size in zip(chosen, sizes):
            index = torch.where((index >= 0) & (place >= 0), index * float(size) + place, OUTSIDE)
            weight = weight * own
        if rank == 3 or a["mode"] == NEAREST:
            weight = torch.where(index >= 0, weight, 0.0)
        at.append(index.clamp_min(-1.0).long())
        weights.append(weight)
    return torch.stack(at, -1), torch.stack(weights, -1)


def sampled(stage: Stage, x: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    """[M, *shape of y] in the dtype of x, of positions and weights [M, images * P, taps]."""
    channels, positions, points = shape_of(stage)
    images, m = int(stage.attrs["images"]), x.shape[0]
    last = stage.attrs["channels_last"]
    planes = (
        x.reshape(m, images, positions, channels).transpose(2, 3) if last else x.reshape(m, images, channels, positions)
    )
    taps = index.shape[-1]
    flat = index.reshape(m, images, 1, points * taps)
    taken = planes.gather(3, flat.clamp_min(0).expand(-1, -1, channels, -1))
    taken = torch.where(flat < 0, 0.0, taken) * weight.reshape(m, images, 1, points * taps).to(x.dtype)
    y = taken.reshape(m, images, channels, points, taps).sum(-1)
    return (y.transpose(2, 3) if last else y).reshape(m, *stage.outputs[0].shape)


def grid_of(stage: Stage, x: Tensor, *given: Tensor) -> Tensor:
    """[M, images * P, rank]."""
    return given[0] if given else stage.tensors["grid"].to(x.device).expand(x.shape[0], -1, -1)


def reference(stage: Stage, x: Tensor, *given: Tensor) -> tuple[Tensor]:
    return (sampled(stage, x.double(), *taps_of(stage, grid_of(stage, x, *given))).float(),)


def tolerance(stage: Stage, x: Tensor, *given: Tensor) -> Tolerance:
    """A product and a sum for each tap, and weights of a polynomial of degree 3 in each dimension."""
    index, weight = taps_of(stage, grid_of(stage, x, *given))
    size = x.double().abs().nan_to_num(posinf=0.0)
    own = weight.abs().nan_to_num(0.0, 0.0, 0.0)
    sums = sampled(stage, size, index, own * (index.shape[-1] + 2) + (16.0 if stage.attrs["mode"] == CUBIC else 2.0))
    return Tolerance(atol=torch.finfo(torch.float32).eps * sums + 1e-37)


def make_stage(sizes: tuple[int, ...], channels: int, points: int, images: int, last: int, **attrs: int) -> Stage:
    positions = prod(sizes)
    rows = (images * positions, channels) if last else (images * channels, positions)
    out = (images * points, channels) if last else (images * channels, points)
    x, y = Value("x", rows[1], steps=rows[0]), Value("y", out[1], steps=out[0])
    grid = Value("grid", len(sizes), steps=images * points)
    own = {"sizes": sizes, "images": images, "channels_last": last, **attrs}
    return Stage("grid_sample", "case", (x, grid), (y,), {}, own)


def cases() -> Iterator[Case]:
    shapes = (
        ((1, 1), 1, 1, 1), ((4, 5), 3, 7, 1), ((9, 6), 17, 33, 2), ((2, 3, 4), 2, 5, 1), ((5, 3, 6), 19, 70, 2),
        ((16, 20), 3, 129, 1),
    )  # fmt: skip
    for number, ((sizes, channels, points, images), mode, padding) in enumerate(product(shapes, range(3), range(3))):
        if mode == CUBIC and len(sizes) != 2:
            continue
        last, align = number % 2, number // 2 % 2
        stage = make_stage(sizes, channels, points, images, last, mode=mode, padding=padding, align=align)
        if number % 5 == 3:
            rows = images * points, len(sizes)
            grid = torch.randn(rows, generator=torch.Generator().manual_seed(number))
            stage = replace(stage, inputs=stage.inputs[:1], tensors={"grid": grid})

        def make(seed: int, stage: Stage = stage) -> tuple[Tensor, ...]:
            g = torch.Generator().manual_seed(seed)
            x, *given = (torch.randn(3, *v.shape, generator=g) for v in stage.inputs)
            for grid in given:
                for i, value in enumerate((float("nan"), float("inf"), -float("inf"), 1e9, -1.0, 1.0, 0.0, 3.0)):
                    grid.view(-1)[i * 5 + 1 :: 97] = value
            x.view(-1)[x.numel() // 2] = float("nan")
            x.view(-1)[0] = float("inf")
            return x, *given

        yield Case(f"{'x'.join(map(str, sizes))}-C{channels}-P{points}-{mode}{padding}{align}{last}", stage, make)


def cost(problem: Problem) -> Cost:
    values = zip((*problem.in_steps, *problem.out_steps), (*problem.in_widths, *problem.out_widths))
    written = problem.out_steps[0] * problem.out_widths[0]
    taps = (2, 1, 4)[problem.attrs["mode"]] ** len(problem.attrs["sizes"])
    return Cost(bytes=4 * problem.rows * sum(s * w for s, w in values), flops=2 * taps * problem.rows * written)


OPERATOR = register_operator(
    Operator(
        name="grid_sample",
        axes={"x": ("M", "steps", "width"), "grid": ("M", "points", "rank"), "y": ("M", "out steps", "width")},
        reference=reference,
        cases=cases,
        tolerance=tolerance,
        cost=cost,
        lower=lower,
        by_row=False,
    )
)
