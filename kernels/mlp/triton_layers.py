"""The layers of an MLP in Triton for one vector: weights in registers as int32 words, multiplied as they are with dp4a.

A layer is tiles [outputs, words] of at most 128 outputs by 128 inputs (triton_tiles.py); one sum along the words gives its
outputs, which are requantized and packed into the words of the next layer. Where a program has all outputs of a layer, the
only exchange between the warps is that of x: two barriers for 128 of it, and a byte of shared memory each.

Padding is zeros, in which everything is exact.
"""

from __future__ import annotations

import triton
import triton.language as tl

from rtaccel.kernels._gpu.triton_device import activate, multiply_rn, pack_words, to_int8
from rtaccel.kernels._gpu.triton_tiles import halves, load_matrix, sums4, sums8
from rtaccel.kernels.recurrent.triton.kernel import pick


@triton.jit
def load_layer(words_ptr, LAYER: tl.constexpr, ROWS: tl.constexpr, ROW_AT: tl.constexpr, COLUMNS: tl.constexpr,
               COLUMN_AT: tl.constexpr, GROUP: tl.constexpr):  # fmt: skip
    return load_matrix(
        words_ptr, ROWS, ROW_AT[LAYER], ROW_AT[LAYER + 1], COLUMNS, COLUMN_AT[LAYER], COLUMN_AT[LAYER + 1],
        8 if GROUP else 4,
    )  # fmt: skip


@triton.jit
def load_layers(words_ptr, LAYERS: tl.constexpr, ROWS: tl.constexpr, ROW_AT: tl.constexpr, COLUMNS: tl.constexpr,
                COLUMN_AT: tl.constexpr, LAYER_WORDS: tl.constexpr, GROUP: tl.constexpr):  # fmt: skip
    """The tiles of all layers."""
    tiles = ()
    for i in tl.static_range(LAYERS):
        tiles = tiles + load_layer(words_ptr, i, ROWS, ROW_AT, COLUMNS, COLUMN_AT, GROUP)
        words_ptr += LAYER_WORDS[i]
    return tiles


@triton.jit
def activated(t, parameter, ACTIVATIONS: tl.constexpr, LAYER: tl.constexpr):
    NAME: tl.constexpr = ACTIVATIONS[LAYER]  # triton 3.6 takes a name from a tuple no other way
    return activate(t, parameter, NAME)


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
def part_outputs(sums, n, params_ptr, HEIGHT: tl.constexpr, ACTIVATIONS: tl.constexpr, LAYER: tl.constexpr,
                 ASM: tl.constexpr):  # fmt: skip
    """float32 of a part of the outputs, those at n, from its sums."""
    t = multiply_rn(sums, tl.load(params_ptr + n), ASM) + tl.load(params_ptr + HEIGHT + n)
    return activated(t, tl.load(params_ptr + 2 * HEIGHT), ACTIVATIONS, LAYER)


@triton.jit
def layer_outputs(
    tiles, words, scales_ptr, params_ptr, compensation_ptr, LAYER: tl.constexpr, ROWS: tl.constexpr, R0: tl.constexpr,
    R1: tl.constexpr, HEIGHT: tl.constexpr, STARTS: tl.constexpr, C0: tl.constexpr, C1: tl.constexpr, GROUP: tl.constexpr,
    ACTIVATIONS: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """The parts of a layer's outputs in this program, float32. tiles: of this layer; the pointers stand at its numbers."""
    COUNT: tl.constexpr = C1 - C0
    ys = ()
    if GROUP:
        lows, highs = split_words(words, COUNT)
    n0 = 0
    for r in tl.static_range(R1 - R0):
        n = n0 + tl.arange(0, ROWS[R0 + r])
        if GROUP:
            sums = sums4(tiles, lows, highs, scales_ptr, HEIGHT, n, r * COUNT, COUNT, STARTS, C0, GROUP, ASM)
        else:
            sums = (sums8(tiles, words, r * COUNT, COUNT, ASM) + tl.load(compensation_ptr + n)).to(tl.float32)
        ys = ys + (part_outputs(sums, n, params_ptr, HEIGHT, ACTIVATIONS, LAYER, ASM),)  # noqa: RUF005
        n0 += ROWS[R0 + r]
    return ys


@triton.jit
def run_layers(
    tiles, words, words_ptr, scales_ptr, params_ptr, compensation_ptr, RESIDENT: tl.constexpr, LAYERS: tl.constexpr,
    ROWS: tl.constexpr, ROW_AT: tl.constexpr, HEIGHTS: tl.constexpr, COLUMNS: tl.constexpr, COLUMN_AT: tl.constexpr,
    STARTS: tl.constexpr, TILE_AT: tl.constexpr, LAYER_WORDS: tl.constexpr, LAYER_SCALES: tl.constexpr,
    GROUP: tl.constexpr, ACTIVATIONS: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """The parts of the last layer's outputs, for a program that has all of every layer. words: of x, in parts. RESIDENT: `tiles`
    are those of all layers; else of the first, and each is loaded while the one before it is computed."""
    own = tiles
    for i in tl.static_range(LAYERS):
        words_ptr += LAYER_WORDS[i]
        following = own
        if RESIDENT:
            own = pick(tiles, TILE_AT[i], TILE_AT[i + 1] - TILE_AT[i])
        elif i + 1 < LAYERS:
            following = load_layer(words_ptr, i + 1, ROWS, ROW_AT, COLUMNS, COLUMN_AT, GROUP)
        ys = layer_outputs(
            own, words, scales_ptr, params_ptr, compensation_ptr, i, ROWS, ROW_AT[i], ROW_AT[i + 1], HEIGHTS[i], STARTS,
            COLUMN_AT[i], COLUMN_AT[i + 1], GROUP, ACTIVATIONS, ASM,
        )  # fmt: skip
        if i + 1 < LAYERS:
            words = ()
            zero_point = tl.load(params_ptr + 2 * HEIGHTS[i] + 1).to(tl.int32)
            for r in tl.static_range(ROW_AT[i + 1] - ROW_AT[i]):
                words = words + (pack_words(to_int8(ys[r], zero_point)),)  # noqa: RUF005
        scales_ptr += LAYER_SCALES[i]
        params_ptr += 2 * HEIGHTS[i] + 4
        compensation_ptr += HEIGHTS[i]
        own = following
    return ys
