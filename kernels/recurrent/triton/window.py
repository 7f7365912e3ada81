"""One launch of a recurrent stack: a window with its loop over time inside, or one time step, with the states in and out."""

from __future__ import annotations

import triton
import triton.language as tl

from rtaccel.kernels._gpu.triton_device import to_int8
from rtaccel.kernels._persistent.triton_exchange import finish
from rtaccel.kernels.recurrent.triton.float32_kernels import length
from rtaccel.kernels.recurrent.triton.kernel import (
    INFINITY_BITS,
    Weights,
    input_words,
    persistent_tiles,
    state_words,
    time_step,
)


@triton.jit
def all_finite(
    x_ptr, h_ptr, c_ptr, x_step, state_step, steps, K: tl.constexpr, LAYERS: tl.constexpr, STATES: tl.constexpr,
    CUT: tl.constexpr,
):  # fmt: skip
    """Whether a stream's x, over its first `steps` time steps, and its states hold no NaN and no infinity."""
    WIDE: tl.constexpr = triton.next_power_of_2(K)
    UNITS: tl.constexpr = triton.next_power_of_2(CUT.H)
    k, n = tl.arange(0, WIDE), tl.arange(0, UNITS)
    fine = tl.full((), 1, tl.int1)
    if x_ptr.dtype.element_ty == tl.float32:
        bits = tl.zeros((WIDE,), tl.int32)
        for t in range(steps):
            x = tl.load(x_ptr + t * x_step + k, mask=k < K, other=0.0)
            bits = tl.maximum(bits, x.to(tl.int32, bitcast=True) & 0x7FFFFFFF)
        fine = fine & (tl.max(bits, 0) < INFINITY_BITS)
    if STATES:
        bits = tl.zeros((UNITS,), tl.int32)
        for layer in tl.static_range(LAYERS):
            h = tl.load(h_ptr + layer * state_step + n, mask=n < CUT.H, other=0.0)
            bits = tl.maximum(bits, h.to(tl.int32, bitcast=True) & 0x7FFFFFFF)
            if CUT.GATES == 4:
                c = tl.load(c_ptr + layer * state_step + n, mask=n < CUT.H, other=0.0)
                bits = tl.maximum(bits, c.to(tl.int32, bitcast=True) & 0x7FFFFFFF)
        fine = fine & (tl.max(bits, 0) < INFINITY_BITS)
    return fine


@triton.jit
def output_of(h, alive, y_ptr, inverse, zero_point):
    """h as y is stored: int8, or float32, where a stream that is not alive is NaN."""
    if y_ptr.dtype.element_ty == tl.int8:
        y = to_int8(tl.where(alive, h, 0.0) * inverse, zero_point)
    else:
        y = tl.where(alive, h, float("nan"))
    return y


@triton.jit
def zeros_behind(y_ptr, n, steps, zero_point, STEP: tl.constexpr, H: tl.constexpr, T: tl.constexpr, LAST: tl.constexpr):
    """Outputs n of a stream behind its last time step are 0; of the newest alone, where LAST says so."""
    zero = tl.zeros((n.shape[0],), tl.float32)
    if y_ptr.dtype.element_ty == tl.int8:
        zero = to_int8(zero, zero_point)
    if LAST:
        # a tile of conditions, because the interpreter of triton 3.9 widens a scalar one
        tl.store(y_ptr + n, zero, mask=(n < H) & (steps + tl.zeros_like(n) < T))
    else:
        for t in range(steps, T):
            tl.store(y_ptr + t * STEP + n, zero, mask=n < H)


@triton.jit(do_not_specialize=["x_zero_point", "y_zero_point", "first_stream"])
def stack_kernel(
    x_ptr, y_ptr, counts_ptr, h0_ptr, c0_ptr, hn_ptr, cn_ptr, words_ptr, scales_ptr, params_ptr, compensation_ptr,
    exchange_ptr, sync_ptr, x_inverse, x_zero_point, h_inverse, y_inverse, y_zero_point, first_stream,
    CUT: tl.constexpr, T: tl.constexpr, B: tl.constexpr, BATCH_FIRST: tl.constexpr, LAST: tl.constexpr, STATES: tl.constexpr,
    KEPT: tl.constexpr, DYNAMIC: tl.constexpr, LONGEST: tl.constexpr,
):  # fmt: skip
    """Grid (PARTS, streams). Shapes: kernels/recurrent/layout.py. counts: how many time steps a stream has, where there are such;
    all of its programs end with the last one, and y behind it is 0. STATES: they come in, else they begin as zeros. KEPT: those
    after go out. Programs of a stream read all of its states, each writes
    its own units. So the states after may lie where those before do with PARTS = 1 alone."""
    BU: tl.constexpr = CUT.BU
    CH: tl.constexpr = CUT.CH
    NH: tl.constexpr = CUT.NH
    H: tl.constexpr = CUT.H
    K: tl.constexpr = CUT.K
    LAYERS: tl.constexpr = CUT.LAYERS
    program, stream = tl.program_id(0), first_stream + tl.program_id(1)
    sample, row = (stream // B).to(tl.int64), stream % B
    X_STEP: tl.constexpr = K if BATCH_FIRST else B * K
    Y_STEP: tl.constexpr = H if BATCH_FIRST else B * H
    STATE_STEP: tl.constexpr = B * H
    x_ptr += sample * T * B * K + row * (T * K if BATCH_FIRST else K)
    if LAST:
        y_ptr += stream.to(tl.int64) * H
    else:
        y_ptr += sample * T * B * H + row * (T * H if BATCH_FIRST else H)
    state_row = sample * LAYERS * B * H + row * H
    h0_ptr += state_row
    c0_ptr += state_row
    hn_ptr += state_row
    cn_ptr += state_row
    words_ptr += program * (CUT.FIRST_WORDS + 2 * (LAYERS - 1) * CUT.OTHER_WORDS)
    if CUT.GROUP:
        scales_ptr += program * (CUT.SCALES_X + (2 * LAYERS - 1) * CUT.SCALES_H)
    params_ptr += program * (CUT.NUMBERS * LAYERS)
    compensation_ptr += program * CUT.GATES * BU
    exchange_ptr += tl.program_id(1) * (2 * LAYERS * CUT.SLOT)
    sync_ptr += tl.program_id(1) * 2
    first = tl.full((), 1, tl.int32)
    if CUT.PARTS > 1:
        first = tl.load(sync_ptr + 1) + 1

    tiles = persistent_tiles(words_ptr, CUT)
    n = program * BU + tl.arange(0, BU)
    hidden, states = (), ()
    for layer in tl.static_range(LAYERS):
        if STATES:
            hidden = hidden + state_words(h0_ptr + layer * STATE_STEP, h_inverse, H, CH, NH)
            state_ptr = c0_ptr if CUT.GATES == 4 else h0_ptr
            states = states + (tl.load(state_ptr + layer * STATE_STEP + n, mask=n < H, other=0.0),)  # noqa: RUF005
        else:
            for _ in tl.static_range(NH):
                hidden = hidden + (tl.zeros((CH,), tl.int32),)  # noqa: RUF005
            states = states + (tl.zeros((BU,), tl.float32),)  # noqa: RUF005
    steps, known = T, True
    if counts_ptr is not None:
        steps, known = length(counts_ptr, stream, T, B, LONGEST)
    alive = all_finite(x_ptr, h0_ptr, c0_ptr, X_STEP, STATE_STEP, steps, K, LAYERS, STATES, CUT)
    if counts_ptr is not None:
        alive = alive & known
    if STATES and CUT.PARTS == 1:
        tl.debug_barrier()  # all threads have read the states, over which new ones may be written
    for t in range(steps):
        x_words, x_scale = input_words(x_ptr + t * X_STEP, x_inverse, x_zero_point, K, CUT.CX, CUT.NX, DYNAMIC)
        hidden, states, outputs, alive = time_step(
            tiles, hidden, states, x_words, x_scale, alive, t > 0,
            Weights(words_ptr, scales_ptr, params_ptr, compensation_ptr), exchange_ptr, first + t, h_inverse, program, CUT,
        )  # fmt: skip
        last = t == T - 1
        if counts_ptr is not None:  # a tile, because the interpreter of triton 3.9 widens a scalar
            last = t + tl.zeros_like(n) == steps - 1
        y = output_of(outputs[LAYERS - 1], alive, y_ptr, y_inverse, y_zero_point)
        if LAST:
            tl.store(y_ptr + n, y, mask=(n < H) & last)
        else:
            tl.store(y_ptr + t * Y_STEP + n, y, mask=n < H)
        if KEPT:
            for layer in tl.static_range(LAYERS):
                at = layer * STATE_STEP + n
                tl.store(hn_ptr + at, tl.where(alive, outputs[layer], float("nan")), mask=(n < H) & last)
                if CUT.GATES == 4:
                    tl.store(cn_ptr + at, tl.where(alive, states[layer], float("nan")), mask=(n < H) & last)
    if counts_ptr is not None:
        zeros_behind(y_ptr, n, steps, y_zero_point, Y_STEP, H, T, LAST)
    if CUT.PARTS > 1:
        finish(sync_ptr, CUT.PARTS, first + steps - 1)
