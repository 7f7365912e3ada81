"""The layers of an MLP in Triton for one vector: weights in registers as int32 words, multiplied as they are with dp4a.

A layer is tiles [outputs, words] of at most 128 outputs by 128 inputs (triton_tiles.py); one sum along the words gives its
outputs, which are requantized and packed into the words of the next layer. Where a program has all outputs of a layer, the
only exchange between the warps is that of x: two barriers for 128 of it, and a byte of shared memory each.

Padding is zeros, in which everything is exact.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from rtaccel.kernels._gpu.triton_activations import activate
from rtaccel.kernels._gpu.triton_device import multiply_rn, pack_words, to_int8
from rtaccel.kernels._gpu.triton_tiles import halves, load_matrix, parts_of_words, sums4, sums8
from rtaccel.kernels.recurrent.triton.kernel import pick


class Params(NamedTuple):
    """Pointers to what sums of a layer are scaled by, as config.py lays it out."""

    scales_ptr: Any
    params_ptr: Any
    compensation_ptr: Any


@triton.jit
def load_layer(words_ptr, LAYER: tl.constexpr, NET: tl.constexpr):
    ROWS: tl.constexpr = NET.ROWS  # triton 3.6 passes a tuple on only as a constant
    COLUMNS: tl.constexpr = NET.COLUMNS
    return load_matrix(
        words_ptr, ROWS, NET.ROW_AT[LAYER], NET.ROW_AT[LAYER + 1], COLUMNS, NET.COLUMN_AT[LAYER], NET.COLUMN_AT[LAYER + 1],
        8 if NET.GROUP else 4,
    )  # fmt: skip


@triton.jit
def load_layers(words_ptr, NET: tl.constexpr):
    """The tiles of all layers."""
    tiles = ()
    for i in tl.static_range(len(NET.HEIGHTS)):
        tiles = tiles + load_layer(words_ptr, i, NET)
        words_ptr += NET.LAYER_WORDS[i]
    return tiles


@triton.jit
def own_numbers(words_ptr, scales_ptr, params_ptr, compensation_ptr, place, NET: tl.constexpr):
    """Where the numbers of the program in this place are, and its weights."""
    words, scales, heights = 0, 0, 0
    for i in tl.static_range(len(NET.HEIGHTS)):
        words += NET.LAYER_WORDS[i]
        scales += NET.LAYER_SCALES[i]
        heights += NET.HEIGHTS[i]
    params = 2 * heights + 4 * len(NET.HEIGHTS)
    return (
        words_ptr + place * words, scales_ptr + place * scales, params_ptr + place * params,
        compensation_ptr + place * heights,
    )  # fmt: skip


@triton.jit
def split_words(words, COUNT: tl.constexpr):
    """(the even words of each part, the odd ones)."""
    lows, highs = (), ()
    for c in tl.static_range(COUNT):
        low, high = halves(words[c])
        lows = lows + (low,)  # noqa: RUF005
        highs = highs + (high,)  # noqa: RUF005
    return lows, highs


@triton.jit
def part_outputs(sums, n, params_ptr, LAYER: tl.constexpr, NET: tl.constexpr):
    """float32 of a part of the outputs, those at n, from its sums."""
    HEIGHT: tl.constexpr = NET.HEIGHTS[LAYER]
    NAME: tl.constexpr = NET.ACTIVATIONS[LAYER]
    t = multiply_rn(sums, tl.load(params_ptr + n), NET.ASM) + tl.load(params_ptr + HEIGHT + n)
    return activate(t, tl.load(params_ptr + 2 * HEIGHT), NAME)


@triton.jit
def layer_outputs(tiles, words, params, LAYER: tl.constexpr, NET: tl.constexpr):
    """The parts of a layer's outputs in this program, float32. tiles: of this layer, as are the numbers."""
    R0: tl.constexpr = NET.ROW_AT[LAYER]
    PARTS: tl.constexpr = NET.ROW_AT[LAYER + 1] - NET.ROW_AT[LAYER]
    C0: tl.constexpr = NET.COLUMN_AT[LAYER]
    COUNT: tl.constexpr = NET.COLUMN_AT[LAYER + 1] - NET.COLUMN_AT[LAYER]
    STARTS: tl.constexpr = NET.STARTS
    ys = ()
    if NET.GROUP:
        lows, highs = split_words(words, COUNT)
    n0 = 0
    for r in tl.static_range(PARTS):
        n = n0 + tl.arange(0, NET.ROWS[R0 + r])
        if NET.GROUP:
            sums = sums4(
                tiles, lows, highs, params.scales_ptr, NET.HEIGHTS[LAYER], n, r * COUNT, COUNT, STARTS, C0, NET.GROUP, NET.ASM
            )  # fmt: skip
        else:
            sums = (sums8(tiles, words, r * COUNT, COUNT, NET.ASM) + tl.load(params.compensation_ptr + n)).to(
                tl.float32
            )
        ys = ys + (part_outputs(sums, n, params.params_ptr, LAYER, NET),)  # noqa: RUF005
        n0 += NET.ROWS[R0 + r]
    return ys


@triton.jit
def words_of(ys, zero_point, COUNT: tl.constexpr):
    """The outputs of a layer as the words of the next layer's input, in parts."""
    words = ()
    for r in tl.static_range(COUNT):
        words = words + (pack_words(to_int8(ys[r], zero_point)),)  # noqa: RUF005
    return words


@triton.jit
def input_parts(packed, FIRST: tl.constexpr, NET: tl.constexpr):
    """The words of the input of layer FIRST, in parts."""
    COLUMNS: tl.constexpr = NET.COLUMNS
    STARTS: tl.constexpr = NET.STARTS
    return parts_of_words(packed, COLUMNS, STARTS, NET.COLUMN_AT[FIRST], NET.COLUMN_AT[FIRST + 1])


@triton.jit
def run_layers(
    tiles, words, words_ptr, scales_ptr, params_ptr, compensation_ptr, RESIDENT: tl.constexpr, NET: tl.constexpr
):
    """The parts of the last layer's outputs, for a program that has all of every layer. words: of x, in parts. RESIDENT: `tiles`
    are those of all layers; else of the first, and each is loaded while the one before it is computed."""
    LAYERS: tl.constexpr = len(NET.HEIGHTS)
    own = tiles
    for i in tl.static_range(LAYERS):
        words_ptr += NET.LAYER_WORDS[i]
        following = own
        if RESIDENT:
            own = pick(tiles, NET.TILE_AT[i], NET.TILE_AT[i + 1] - NET.TILE_AT[i])
        elif i + 1 < LAYERS:
            following = load_layer(words_ptr, i + 1, NET)
        ys = layer_outputs(own, words, Params(scales_ptr, params_ptr, compensation_ptr), i, NET)
        if i + 1 < LAYERS:
            zero_point = tl.load(params_ptr + 2 * NET.HEIGHTS[i] + 1).to(tl.int32)
            words = words_of(ys, zero_point, NET.ROW_AT[i + 1] - NET.ROW_AT[i])
        scales_ptr += NET.LAYER_SCALES[i]
        params_ptr += 2 * NET.HEIGHTS[i] + 4
        compensation_ptr += NET.HEIGHTS[i]
        own = following
    return ys
