"""LSTM, GRU and RNN (tanh) stacks in Triton: a whole stack over a window, or one time step of it, in one launch, with the bits of
the CPU.

A gate of a layer is two tiles [units, words] of int32 words, four int8 weights each (or eight int4 ones, whose groups are added
in order: triton_int4.py): one for its input and one for h. dp4a
multiplies them by the words of x and of h, one sum along the words gives [units], and all gates of a unit lie alike, so that
the cell needs no exchange. Of what a program reads again every time step, the first `RESIDENT` layers stay in registers (packed
words are multiplied as they are: there is nothing to unpack); later layers are read from the caches.

PARTS programs share a stream: each has BU units of every layer, and the int8 h of a layer is exchanged by triton_exchange.py.
The half of a layer that reads its own h is computed before it waits for its input. With PARTS = 1 nothing leaves the program.

Sizes are padded with zeros, in which everything is exact: units to a power of two, words to chunks of a power of two.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from rtaccel.formats.int8 import TINY as SMALLEST
from rtaccel.kernels._gpu.triton_device import dot4, multiply_rn, pack_words, to_int8
from rtaccel.kernels._gpu.triton_int4 import add_groups
from rtaccel.kernels._gpu.triton_tiles import halves
from rtaccel.kernels._persistent.triton_exchange import publish, receive, split
from rtaccel.kernels.recurrent.triton.cells import gru_cell, lstm_cell, tanh_cell

INFINITY_BITS = tl.constexpr(0x7F800000)
TINY = tl.constexpr(SMALLEST)


class Weights(NamedTuple):
    """Pointers to what a program multiplies by; scales_ptr is None for int8 weights of a stream."""

    words_ptr: Any
    scales_ptr: Any
    params_ptr: Any
    compensation_ptr: Any


@triton.jit
def load_tiles(words_ptr, BU: tl.constexpr, CHUNK: tl.constexpr, COUNT: tl.constexpr):
    """COUNT tiles [BU, CHUNK] that follow each other."""
    u, w = tl.arange(0, BU), tl.arange(0, CHUNK)
    at = words_ptr + u[:, None] * CHUNK + w[None, :]
    tiles = ()
    for i in tl.static_range(COUNT):
        tiles = tiles + (tl.load(at + i * BU * CHUNK),)  # noqa: RUF005
    return tiles


@triton.jit
def gate_sums(tiles, words, CHUNK: tl.constexpr, CHUNKS: tl.constexpr, CUT: tl.constexpr):
    """int32 [BU] for each gate: its tiles times the words of a vector, exact."""
    BU: tl.constexpr = CUT.BU
    GATES: tl.constexpr = CUT.GATES
    sums = ()
    for g in tl.static_range(GATES):
        acc = tl.zeros((BU, CHUNK), tl.int32)
        for c in tl.static_range(CHUNKS):
            acc = dot4(tiles[g * CHUNKS + c], tl.broadcast_to(words[c][None, :], (BU, CHUNK)), acc, CUT.ASM)
        sums = sums + (tl.sum(acc, 1),)  # noqa: RUF005
    return sums


@triton.jit
def gate_sums_int4(tiles, words, scales_ptr, CHUNK: tl.constexpr, CHUNKS: tl.constexpr, CUT: tl.constexpr):
    """float32 [BU] for each gate of int4 weights, in the order of triton_int4.py. scales: [gates, pairs of groups, BU]."""
    BU: tl.constexpr = CUT.BU
    GATES: tl.constexpr = CUT.GATES
    PAIRS: tl.constexpr = (4 * CHUNK * CHUNKS // CUT.GROUP + 1) // 2
    u = tl.arange(0, BU)
    lows, highs = (), ()
    for c in tl.static_range(CHUNKS):
        low, high = halves(words[c])
        lows = lows + (low,)  # noqa: RUF005
        highs = highs + (high,)  # noqa: RUF005
    sums = ()
    for g in tl.static_range(GATES):
        acc = tl.zeros((BU,), tl.float32)
        for c in tl.static_range(CHUNKS):
            acc = add_groups(
                acc, tiles[g * CHUNKS + c], lows[c], highs[c], scales_ptr + g * PAIRS * BU, BU, u,
                c * 4 * CHUNK // CUT.GROUP, CUT.GROUP, CUT.ASM,
            )  # fmt: skip
        sums = sums + (acc,)  # noqa: RUF005
    return sums


@triton.jit
def sums_of(tiles, words, scales_ptr, CHUNK: tl.constexpr, CHUNKS: tl.constexpr, CUT: tl.constexpr):
    """Of each gate, int32 of int8 weights, float32 of int4 ones."""
    if CUT.GROUP:
        sums = gate_sums_int4(tiles, words, scales_ptr, CHUNK, CHUNKS, CUT)
    else:
        sums = gate_sums(tiles, words, CHUNK, CHUNKS, CUT)
    return sums


@triton.jit
def input_words(x_ptr, inverse, zero_point, K: tl.constexpr, CHUNK: tl.constexpr, CHUNKS: tl.constexpr,
                DYNAMIC: tl.constexpr):  # fmt: skip
    """(the words of one time step of x, its scale): float32 quantized as the contract of `quantize` has it, or int8 as it is."""
    k = tl.arange(0, 4 * CHUNK)
    scale = tl.full((), 1.0, tl.float32)
    keep = True
    if DYNAMIC:
        bits = tl.zeros((4 * CHUNK,), tl.int32)
        for c in tl.static_range(CHUNKS):
            x = tl.load(x_ptr + c * 4 * CHUNK + k, mask=c * 4 * CHUNK + k < K, other=0.0)
            bits = tl.maximum(bits, x.to(tl.int32, bitcast=True) & 0x7FFFFFFF)
        peak_bits = tl.max(bits, 0)
        peak = peak_bits.to(tl.float32, bitcast=True)
        keep = (peak_bits < INFINITY_BITS) & (peak >= TINY)
        safe = tl.where(keep, peak, 1.0)
        steps = tl.full((), 127.0, tl.float32)
        inverse = tl.div_rn(steps, safe)
        scale = tl.where(keep, tl.div_rn(safe, steps), 1.0)
    words = ()
    for c in tl.static_range(CHUNKS):
        x = tl.load(x_ptr + c * 4 * CHUNK + k, mask=c * 4 * CHUNK + k < K, other=0)
        q = x
        if x.dtype == tl.float32:
            q = to_int8(x * inverse, zero_point)
            if DYNAMIC:
                q = tl.where(keep, tl.maximum(q, -127), 0)
            q = tl.where(c * 4 * CHUNK + k < K, q, 0)
        words = words + (pack_words(q),)  # noqa: RUF005
    return words, scale


@triton.jit
def state_words(h_ptr, inverse, H: tl.constexpr, CHUNK: tl.constexpr, CHUNKS: tl.constexpr):
    """The words of one layer's float32 h [H]."""
    n = tl.arange(0, 4 * CHUNK)
    words = ()
    for c in tl.static_range(CHUNKS):
        h = tl.load(h_ptr + c * 4 * CHUNK + n, mask=c * 4 * CHUNK + n < H, other=0.0)
        words = words + (pack_words(to_int8(h * inverse, 0)),)  # noqa: RUF005
    return words


@triton.jit
def cell(sums_x, sums_h, scale, params_ptr, compensation_ptr, state, FIRST: tl.constexpr, CUT: tl.constexpr):
    """(h, the state that is carried: c of an LSTM, h of the others). numbers: multipliers of x and of h and biases, [GATES, BU]
    each, then for a GRU the bias of h in its third gate. FIRST: of layer 0, whose x has a zero point and a scale."""
    BU: tl.constexpr = CUT.BU
    GATES: tl.constexpr = CUT.GATES
    u = tl.arange(0, BU)
    from_x, from_h, biases = (), (), ()
    for g in tl.static_range(GATES):
        acc, multiplier = sums_x[g], tl.load(params_ptr + g * BU + u)
        if FIRST:
            acc += tl.load(compensation_ptr + g * BU + u)
            multiplier = multiply_rn(multiplier, scale + tl.zeros((BU,), tl.float32), CUT.ASM)
        from_x = from_x + (multiply_rn(acc.to(tl.float32), multiplier, CUT.ASM),)  # noqa: RUF005
        other = tl.load(params_ptr + (GATES + g) * BU + u)
        from_h = from_h + (multiply_rn(sums_h[g].to(tl.float32), other, CUT.ASM),)  # noqa: RUF005
        biases = biases + (tl.load(params_ptr + (2 * GATES + g) * BU + u),)  # noqa: RUF005
    t0 = (from_x[0] + from_h[0]) + biases[0]
    if GATES > 1:
        t1 = (from_x[1] + from_h[1]) + biases[1]
    if GATES == 1:
        h = tanh_cell(t0, CUT.ASM)
        after = h
    elif GATES == 4:
        t2, t3 = (from_x[2] + from_h[2]) + biases[2], (from_x[3] + from_h[3]) + biases[3]
        h, after = lstm_cell(t0, t1, t2, t3, state, CUT.ASM)
    else:
        bias_n = tl.load(params_ptr + 3 * GATES * BU + u)
        h = gru_cell(t0, t1, from_x[2] + biases[2], from_h[2] + bias_n, state, CUT.ASM)
        after = h
    return h, after


@triton.jit
def persistent_tiles(words_ptr, CUT: tl.constexpr):
    """The tiles of the first RESIDENT layers, of x and then of h."""
    tiles = ()
    if CUT.RESIDENT > 0:
        tiles = load_tiles(words_ptr, CUT.BU, CUT.WX, CUT.GATES * CUT.NX)
        rest = words_ptr + CUT.GATES * CUT.NX * CUT.BU * CUT.WX
        tiles = tiles + load_tiles(rest, CUT.BU, CUT.WH, CUT.GATES * CUT.NH * (2 * CUT.RESIDENT - 1))
    return tiles


@triton.jit
def pick(values, FIRST: tl.constexpr, COUNT: tl.constexpr):
    """COUNT of the values, from FIRST on."""
    found = ()
    for i in tl.static_range(COUNT):
        found = found + (values[FIRST + i],)  # noqa: RUF005
    return found


@triton.jit
def time_step(
    tiles, hidden, states, x_words, x_scale, alive, passed, weights, exchange_ptr, sequence, h_inverse, program,
    CUT: tl.constexpr,
):  # fmt: skip
    """One time step through all layers: (words of h, NH a layer; carried states and h of this program's units, one a layer;
    alive, which ends with a word that never came).

    Of `hidden`, the words of the last layer are older by a time step where PARTS > 1 and `passed`: the time step before is one of
    this launch, and they are received when they are needed. `sequence` is the number of this time step. weights: `Weights`, of
    this program.
    """
    LAYERS: tl.constexpr = CUT.LAYERS
    GATES: tl.constexpr = CUT.GATES
    PARTS: tl.constexpr = CUT.PARTS
    BU: tl.constexpr = CUT.BU
    CH: tl.constexpr = CUT.CH
    NH: tl.constexpr = CUT.NH
    WORDS: tl.constexpr = PARTS * BU // 4
    TILES_X: tl.constexpr = GATES * CUT.NX
    TILES_H: tl.constexpr = GATES * NH
    kept, after, outputs = (), (), ()
    below = x_words
    for layer in tl.static_range(LAYERS):
        own = pick(hidden, layer * NH, NH)
        if layer == 0 and CUT.RESIDENT > 0:
            tiles_h = pick(tiles, TILES_X, TILES_H)
        elif layer < CUT.RESIDENT:
            tiles_h = pick(tiles, TILES_X + 2 * layer * TILES_H, TILES_H)
        elif layer == 0:
            tiles_h = load_tiles(weights.words_ptr + TILES_X * CUT.WX * BU, BU, CUT.WH, TILES_H)
        else:
            tiles_h = load_tiles(
                weights.words_ptr + CUT.FIRST_WORDS + (2 * layer - 1) * CUT.OTHER_WORDS, BU, CUT.WH, TILES_H
            )
        if PARTS > 1 and layer == LAYERS - 1:  # noqa: SIM102 - the outer is decided by the compiler
            if passed:
                earlier = exchange_ptr + (2 * layer + ((sequence - 1) & 1)) * CUT.SLOT
                own, missing = receive(earlier, sequence - 1, WORDS, CH, NH, CUT.THREADS)
                alive = alive & (missing == 0)
        scales_x = weights.scales_ptr
        if CUT.GROUP and layer > 0:
            scales_x = weights.scales_ptr + (CUT.SCALES_X + (2 * layer - 1) * CUT.SCALES_H)
        scales_h = scales_x
        if CUT.GROUP:
            scales_h = scales_x + (CUT.SCALES_X if layer == 0 else CUT.SCALES_H)
        sums_h = sums_of(tiles_h, own, scales_h, CH, NH, CUT)
        # Loads that need not wait for what is received next.
        if layer == 0 and CUT.RESIDENT > 0:
            tiles_x = pick(tiles, 0, TILES_X)
        elif layer < CUT.RESIDENT:
            tiles_x = pick(tiles, TILES_X + (2 * layer - 1) * TILES_H, TILES_H)
        elif layer == 0:
            tiles_x = load_tiles(weights.words_ptr, BU, CUT.WX, TILES_X)
        else:
            tiles_x = load_tiles(
                weights.words_ptr + CUT.FIRST_WORDS + (2 * layer - 2) * CUT.OTHER_WORDS, BU, CUT.WH, TILES_H
            )
        if PARTS > 1 and layer > 0:
            slot = exchange_ptr + (2 * (layer - 1) + (sequence & 1)) * CUT.SLOT
            below, missing = receive(slot, sequence, WORDS, CH, NH, CUT.THREADS)
            alive = alive & (missing == 0)
            kept = kept + below
        if layer == 0:
            sums_x = sums_of(tiles_x, below, scales_x, CUT.CX, CUT.NX, CUT)
        else:
            sums_x = sums_of(tiles_x, below, scales_x, CH, NH, CUT)
        params_ptr = weights.params_ptr + layer * CUT.NUMBERS
        h, state = cell(sums_x, sums_h, x_scale, params_ptr, weights.compensation_ptr, states[layer], layer == 0, CUT)
        words = pack_words(to_int8(h * h_inverse, 0))
        if PARTS == 1:
            below = split(words, CH, NH, BU // 4) if NH > 1 else (words,)
            kept = kept + below
        else:
            publish(exchange_ptr + (2 * layer + (sequence & 1)) * CUT.SLOT, program * (BU // 4), words, sequence)
            if layer == LAYERS - 1:
                kept = kept + own
        after = after + (state,)  # noqa: RUF005
        outputs = outputs + (h,)  # noqa: RUF005
    return kept, after, outputs, alive
