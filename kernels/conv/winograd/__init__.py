"""Winograd's convolution F(m x m, 3 x 3): where the native kernels take it, and how far its float32 results may be off.

A tile of m x m outputs comes from (m + 2)^2 inputs: y = A' [ sum over channels of (G w G') * (B' d B) ] A. Kernels of 3 x 1 and
1 x 3 are F(m, 3) along their axis: y = A' sum over channels of (G w) * (B' d). Inputs and outputs of a tile are as far apart as
the taps, whatever the dilation.
docs/decisions/0025-winograd.md says why, with figures. transform.h has the two transforms of values, float32.h and int8.h the
stages around them; int8 is exact (docs/decisions/0050-winograd-in-whole-numbers.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from rtaccel.core.errors import ShapeError
from rtaccel.core.stage import Stage

INPUT = {
    2: ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1)),
    4: (
        (4, 0, -5, 0, 1, 0), (0, -4, -4, 1, 1, 0), (0, 4, -4, -1, 1, 0),
        (0, -2, -1, 2, 1, 0), (0, 2, -1, -2, 1, 0), (0, 4, 0, -5, 0, 1),
    ),
}  # fmt: skip
"""B', by m."""

WEIGHT = {
    2: ((1, 0, 0), (1 / 2, 1 / 2, 1 / 2), (1 / 2, -1 / 2, 1 / 2), (0, 0, 1)),
    4: (
        (1 / 4, 0, 0), (-1 / 6, -1 / 6, -1 / 6), (-1 / 6, 1 / 6, -1 / 6),
        (1 / 24, 1 / 12, 1 / 6), (1 / 24, -1 / 12, 1 / 6), (0, 0, 1),
    ),
}  # fmt: skip
"""G, by m."""

OUTPUT = {
    2: ((1, 1, 1, 0), (0, 1, -1, -1)),
    4: ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1)),
}
"""A', by m."""

ROUNDINGS = 20
"""Of a product on its way beyond the sum over channels: at most 3 in each of two transforms of inputs, 1 of the weight, 1 of
the product, 3 in each of two transforms of outputs; 3 of bias, residual and result; 3 to spare."""


def possible(attrs: Mapping[str, Any]) -> bool:
    """Whether a float32 convolution is one of 3 x 3 with stride 1 whose positions are all there."""
    return (
        tuple(attrs["kernel"]) == (3, 3)
        and tuple(attrs.get("stride", (1, 1))) == (1, 1)
        and int(attrs.get("groups", 1)) == 1
        and not attrs.get("stream")
        and all(attrs.get(name) is None for name in ("in_steps", "out_steps", "out_rows", "tap_rows"))
    )


def line(attrs: Mapping[str, Any]) -> int | None:
    """The axis along which a float32 convolution has three taps, and one along the other; None where it is another, or positions
    are missing."""
    kernel, padding = tuple(attrs["kernel"]), tuple(attrs.get("padding", (0, 0)))
    axis = {(1, 3): 1, (3, 1): 0}.get(kernel)
    if axis is None or padding[1 - axis] or attrs["in_size"][1 - axis] != attrs["out_size"][1 - axis]:
        return None
    return axis if possible({**attrs, "kernel": (3, 3)}) else None


def tile(stage: Stage) -> int:
    """m, or 0 for sums of products. The attr `winograd` says it where it is given.

    Raises ShapeError for an m that there is not, or for another convolution.
    """
    weight, given = stage.tensors["weight"], stage.attrs.get("winograd")
    axis = None if stage.attrs.get("stream") else line(stage.attrs)
    fits = weight.dtype == torch.float32 and (axis is not None or possible(stage.attrs))
    if given is not None:
        if given not in (0, 2, 4) or (given and not fits):
            raise ShapeError(
                "conv", f"winograd = {given!r}", "0, or 2 or 4 for float32, three taps and stride 1", "Leave it out."
            )
        return int(given)
    n, c = weight.shape[:2]
    if not fits:
        return 0
    apart = stage.attrs.get("dilation", (1, 1))
    if axis is None:
        return best(c, n, stage.attrs["out_size"], apart)
    return best_line(c, n, stage.attrs["out_size"], axis, apart[axis])


MIN_POSITIONS = {4: 49, 2: 16}
BYTES_A_POSITION = {4: 96 << 10, 2: 256 << 10}
"""How many bytes of transformed weights a position may ask for, by m: beyond, to read them takes what products save."""


def best(c: int, n: int, out_size: tuple[int, int], apart: tuple[int, int] = (1, 1)) -> int:
    """The m that is fastest by the figures of the decision; 0 where sums of products are. apart: the dilation.

    F(4 x 4) has four times the weights of sums, F(2 x 2) 1.8 times.
    """
    positions = out_size[0] * out_size[1]
    if min(c, n) < 16:
        return 0
    for m in (4, 2):
        computed = math.prod(-(-size // (m * step)) * m * step for size, step in zip(out_size, apart))
        weights = 4 * (m + 2) ** 2 * c * n
        if positions >= max(MIN_POSITIONS[m], 0.7 * computed) and weights <= BYTES_A_POSITION[m] * positions:
            return m
    return 0


LINE_PRODUCTS, LINE_POSITIONS, LINE_BYTES_A_POSITION = 24 * 24, 8, 128 << 10
"""The least inputs times outputs, the least positions, and how many bytes of transformed weights each of them may ask for."""


def best_line(c: int, n: int, out_size: tuple[int, int], axis: int, apart: int) -> int:
    """4 where F(4, 3) is faster than sums of products, else 0. It has twice their weights."""
    along, lines = out_size[axis], out_size[1 - axis]
    computed = -(-along // (4 * apart)) * 4 * apart * lines
    positions, weights = along * lines, 4 * 6 * c * n
    few = positions < max(LINE_POSITIONS, 0.7 * computed) or min(c, n) < 16 or c * n < LINE_PRODUCTS
    return 0 if few or weights > LINE_BYTES_A_POSITION * positions else 4


def magnitude(stage: Stage, m: int, rows: Tensor, weight: Tensor) -> Tensor:
    """float64 [M, out steps, N]: what rounding is relative to, |A'| [ sum of (|G| |w| |G'|) * (|B'| |d| |B|) ] |A|."""
    axis = line(stage.attrs)
    if axis is not None:
        return _along(stage, m, rows, weight, axis)
    (height, width), (top, left) = stage.attrs["in_size"], stage.attrs.get("padding", (0, 0))
    (tall, wide), (down, across) = stage.attrs["out_size"], stage.attrs.get("dilation", (1, 1))
    blocks = -(-tall // (m * down)), -(-wide // (m * across))
    image = rows.new_zeros(
        rows.shape[0], top + height + (blocks[0] + 2) * m * down, left + width + (blocks[1] + 2) * m * across, rows.shape[2]
    ).double()  # fmt: skip
    image[:, top : top + height, left : left + width] = rows.unflatten(1, (height, width)).abs()
    at_y, at_x = _inputs(m, blocks[0], down), _inputs(m, blocks[1], across)
    tiles = image[:, at_y[:, :, None, None], at_x]  # [M, tiles down, m + 2, tiles across, m + 2, C]
    b, g, a = (torch.tensor(t[m], dtype=torch.float64).abs() for t in (INPUT, WEIGHT, OUTPUT))
    v = torch.einsum("ij,syjxkc,lk->syxcil", b, tiles, b)
    u = torch.einsum("ij,ncjk,lk->ncil", g, weight.double().abs(), g)
    sums = torch.einsum("syxcil,ncil->syxnil", v, u)
    y = torch.einsum("ij,syxnjk,lk->syxiln", a, sums, a).unflatten(2, (-1, across)).unflatten(1, (-1, down))
    y = y.permute(0, 1, 5, 2, 3, 6, 4, 7)  # [M, blocks, m, apart] by dimension, then the outputs
    return y.reshape(rows.shape[0], blocks[0] * m * down, -1, weight.shape[0])[:, :tall, :wide].flatten(1, 2)


def _inputs(m: int, blocks: int, apart: int) -> Tensor:
    """Where the m + 2 inputs of each tile along a dimension are: `apart` tiles begin one after the other, in so many blocks."""
    first = (torch.arange(blocks) * m * apart)[:, None] + torch.arange(apart)
    return first.reshape(-1, 1) + torch.arange(m + 2) * apart


def _along(stage: Stage, m: int, rows: Tensor, weight: Tensor, axis: int) -> Tensor:
    """The same along one axis: |A'| sum of (|G| |w|) * (|B'| |d|)."""
    before, out = stage.attrs.get("padding", (0, 0))[axis], stage.attrs["out_size"][axis]
    apart = stage.attrs.get("dilation", (1, 1))[axis]
    lines = rows.unflatten(1, stage.attrs["in_size"]).double().abs()
    lines = lines if axis else lines.transpose(1, 2)  # [M, lines, along, C]
    blocks = -(-out // (m * apart))
    padded = lines.new_zeros(*lines.shape[:2], before + lines.shape[2] + (blocks + 2) * m * apart, lines.shape[3])
    padded[:, :, before : before + lines.shape[2]] = lines
    tiles = padded[:, :, _inputs(m, blocks, apart).unflatten(0, (blocks, apart))]  # [M, lines, blocks, apart, m + 2, C]
    b, g, a = (torch.tensor(t[m], dtype=torch.float64).abs() for t in (INPUT, WEIGHT, OUTPUT))
    v = torch.einsum("ij,slbrjc->slbric", b, tiles)
    u = torch.einsum("ij,ncj->nci", g, weight.double().abs().flatten(2))
    y = torch.einsum("ki,slbric,nci->slbkrn", a, v, u).flatten(2, 4)[:, :, :out]
    return (y if axis else y.transpose(1, 2)).flatten(1, 2)


def terms(c: int) -> int:
    """How many roundings of float32 a product goes through."""
    return c + ROUNDINGS
