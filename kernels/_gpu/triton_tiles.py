"""Matrices for one vector, as tiles of at most 128 outputs by 128 inputs: widths need not be padded to powers of two.

A width is cut into parts of 128 and, of what is left, powers of two; a matrix of N outputs and K inputs into a tile for each
part of N and of K, which lie one after another: those of the first part of N first. A vector is a tuple of its parts: int8,
four to a word.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from rtaccel.kernels._gpu.triton_device import dot4
from rtaccel.kernels._gpu.triton_int4 import add_groups
from rtaccel.kernels._gpu.triton_spec import power_of_two

TILE = 128


@triton.jit
def load_tile(words_ptr, N: tl.constexpr, W: tl.constexpr):
    n, w = tl.arange(0, N), tl.arange(0, W)
    return tl.load(words_ptr + n[:, None] * W + w[None, :])


@triton.jit
def load_matrix(words_ptr, ROWS: tl.constexpr, R0: tl.constexpr, R1: tl.constexpr, COLUMNS: tl.constexpr,
                C0: tl.constexpr, C1: tl.constexpr, PER_WORD: tl.constexpr):  # fmt: skip
    """The tiles of a matrix whose outputs are cut into ROWS[R0:R1] and whose inputs are COLUMNS[C0:C1]."""
    tiles = ()
    for r in tl.static_range(R0, R1):
        for c in tl.static_range(C0, C1):
            tiles = tiles + (load_tile(words_ptr, ROWS[r], COLUMNS[c] // PER_WORD),)  # noqa: RUF005
            words_ptr += ROWS[r] * (COLUMNS[c] // PER_WORD)
    return tiles


@triton.jit
def sums8(tiles, words, FIRST: tl.constexpr, COUNT: tl.constexpr, ASM: tl.constexpr):
    """int32 [N], exact: COUNT tiles of int8 weights, from FIRST on, that belong to one part of N. Tiles of one shape share a sum
    across lanes."""
    acc = tl.zeros_like(tiles[FIRST])
    total = tl.zeros((tiles[FIRST].shape[0],), tl.int32)
    for c in tl.static_range(COUNT):
        tile = tiles[FIRST + c]
        if tile.shape[1] != acc.shape[1]:
            total += tl.sum(acc, 1)
            acc = tl.zeros_like(tile)
        acc = dot4(tile, tl.broadcast_to(words[c][None, :], tile.shape), acc, ASM)
    return total + tl.sum(acc, 1)


@triton.jit
def halves(words):
    """(even words, odd words), each half as many, as int4 weights need them."""
    return tl.split(tl.reshape(words, (words.shape[0] // 2, 2)))


@triton.jit
def sums4(tiles, lows, highs, scales_ptr, stride, n, FIRST: tl.constexpr, COUNT: tl.constexpr, STARTS: tl.constexpr,
          C0: tl.constexpr, GROUP: tl.constexpr, ASM: tl.constexpr):  # fmt: skip
    """float32 [N] in the order of triton_int4.py: COUNT tiles of int4 weights, from FIRST on. STARTS: of the parts of K, from C0
    on. stride: between the scales of two pairs of groups; n: the rows' places in them."""
    acc = tl.zeros((tiles[FIRST].shape[0],), tl.float32)
    for c in tl.static_range(COUNT):
        acc = add_groups(
            acc, tiles[FIRST + c], lows[c], highs[c], scales_ptr, stride, n, STARTS[C0 + c] // GROUP, GROUP, ASM
        )  # fmt: skip
    return acc


@triton.jit
def part_of(words, START: tl.constexpr, SIZE: tl.constexpr):
    """SIZE of the words, from START on, a multiple of SIZE: a tensor that every warp has."""
    COUNT: tl.constexpr = words.shape[0] // SIZE
    if COUNT == 1:
        part = words
    else:
        at = tl.arange(0, COUNT)[None, :]
        part = tl.sum(tl.where(at == START // SIZE, tl.trans(tl.reshape(words, (COUNT, SIZE))), 0), 1)
    return part


@triton.jit
def parts_of_words(words, PARTS: tl.constexpr, STARTS: tl.constexpr, P0: tl.constexpr, P1: tl.constexpr):
    """The words of a vector that is cut into PARTS[P0:P1], which begin at STARTS, each a tensor."""
    parts = ()
    for p in tl.static_range(P0, P1):
        parts = parts + (part_of(words, STARTS[p] // 4, PARTS[p] // 4),)  # noqa: RUF005
    return parts


def parts_of(width: int, least: int = 16) -> tuple[int, ...]:
    """The parts of a width: 128 as often as it goes, and for the rest one power of two of at least `least`, or several where one
    would pad the width by more than an eighth. A width of one tile stays one part, unless parts may be small."""
    parts = [TILE] * (width // TILE)
    rest = width % TILE
    while rest > 0:
        whole = power_of_two(rest, least, TILE)
        if (width > TILE or least < 16) and 8 * (whole - rest) > width and whole > least:
            whole //= 2
        parts.append(whole)
        rest -= whole
    return tuple(parts) or (least,)


def tiles_of(words: Tensor, rows: Sequence[int], columns: Sequence[int]) -> Tensor:
    """Words [sum of rows, sum of columns] tile by tile, flat. columns: in words."""
    found = [tile.reshape(-1) for part in words.split(list(rows)) for tile in part.split(list(columns), dim=1)]
    return torch.cat(found)


@triton.jit
def repeated(values, TIMES: tl.constexpr):
    """[n, w] -> [n, w * TIMES]: each value so many times, in the lane that has it.

    Where neighbors read the same number, or any, Triton 3.6 lays lanes down the rows. It moves what meets the tile through shared
    memory, with two barriers. So where the values are loaded it is told that two neighbors read two numbers that follow each
    other: `tl.max_contiguous(at, (1, 2))`. That has no other effect where a lane has one number, or where offsets come from
    memory and may be odd: then no load takes two at once. The hint belongs to the operation that makes `at`, so no function
    can give it."""
    wide = tl.broadcast_to(values[:, :, None], (values.shape[0], values.shape[1], TIMES))
    return tl.reshape(wide, (values.shape[0], values.shape[1] * TIMES))
