"""The launches of float32.py that go through time.

A cell takes the card's own exponential: it is float32 from end to end, and the fewest registers beside weights that stay."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def sigmoid(t):
    """1 / (1 + exp(-t)); exp overflows to inf below -88 and the quotient is then 0."""
    return 1.0 / (1.0 + tl.exp(-t))


@triton.jit
def tanh(t):
    """sign(t) * (1 - e) / (1 + e) with e = exp(-2 |t|), which never overflows. Absolute error about 2^-23."""
    e = tl.exp(-2.0 * tl.abs(t))
    r = (1.0 - e) / (1.0 + e)
    return tl.where(t < 0, -r, r)


@triton.jit
def cell(KIND: tl.constexpr, x0, x1, x2, x3, h0, h1, h2, h3, bias_n, h, c):
    """(h, c) after a time step. x: gates of x with their biases; h0..h3: those of h; h, c: the states before."""
    if KIND == "lstm":
        c = sigmoid(x1 + h1) * c + sigmoid(x0 + h0) * tanh(x2 + h2)
        h = sigmoid(x3 + h3) * tanh(c)
    elif KIND == "gru":
        z = sigmoid(x1 + h1)
        n = tanh(x2 + sigmoid(x0 + h0) * (h2 + bias_n))
        h = (1.0 - z) * n + z * h
    elif KIND == "rnn_tanh":
        h = tanh(x0 + h0)
    else:
        t = x0 + h0
        h = tl.where(t < 0.0, 0.0, t)
    return h, c


@triton.jit
def loaded(at, n, H: tl.constexpr, GATES: tl.constexpr, G: tl.constexpr):
    """Gate G of units n, or of the first one where there are fewer."""
    return tl.load(at + (G if G < GATES else 0) * H + n, mask=n < H, other=0.0)


@triton.jit
def matrix(w_ptr, u, k, H: tl.constexpr, GATES: tl.constexpr, G: tl.constexpr):
    return tl.load(w_ptr + ((G if G < GATES else 0) * H + u) * H + k, mask=(u < H) & (k < H), other=0.0)


@triton.jit
def length(counts_ptr, stream, T: tl.constexpr, B: tl.constexpr, LONGEST: tl.constexpr):
    """(time steps that a stream has, whether it is a number of them): outside of 1 to T nothing is read elsewhere. LONGEST: one
    of the B streams of its sample has to have T, or none has a number of them."""
    count = tl.load(counts_ptr + stream)
    known = (count >= 1) & (count <= T)
    if LONGEST:
        longest = count
        for other in range(B):
            longest = tl.maximum(longest, tl.load(counts_ptr + stream // B * B + other))
        known = known & (longest == T)
    inside = tl.minimum(tl.maximum(count, 1), T)  # as it is, for the proof of indices
    return tl.where(known, inside, T).to(tl.int32), known


@triton.jit
def place(t, d, count, T: tl.constexpr, LENGTHS: tl.constexpr):
    """Where time step t of direction d reads x and writes y; the other direction is the other way, from a stream's own end."""
    step = t + d * (T - 1 - 2 * t)
    if LENGTHS:
        step = tl.where(t < count, t + d * (count - 1 - 2 * t), t)
    return step


@triton.jit
def until(t, count, known, y, h, c, before_h, before_c):
    """(y, h, c) of a stream that has `count` time steps: behind them its states stay, and y is 0. NaN for no number of steps."""
    nan = float("nan")
    going = t < count
    y, h, c = tl.where(going, y, 0.0), tl.where(going, h, before_h), tl.where(going, c, before_c)
    return tl.where(known, y, nan), tl.where(known, h, nan), tl.where(known, c, nan)


@triton.jit
def held_kernel(
    gx_ptr, w_ptr, bias_n_ptr, counts_ptr, h0_ptr, c0_ptr, y_ptr, hn_ptr, cn_ptr,
    KIND: tl.constexpr, GATES: tl.constexpr, H: tl.constexpr, T: tl.constexpr, B: tl.constexpr, D: tl.constexpr,
    BATCH_FIRST: tl.constexpr, LAST: tl.constexpr, STATE_ROWS: tl.constexpr, STATE_FIRST: tl.constexpr, BLOCK: tl.constexpr,
    LONGEST: tl.constexpr,
):  # fmt: skip
    m, b = (tl.program_id(0) // B).to(tl.int64), tl.program_id(0) % B
    d = tl.program_id(1)
    u, k = tl.arange(0, BLOCK)[:, None], tl.arange(0, BLOCK)[None, :]
    n = tl.arange(0, BLOCK)
    w_ptr += d * (GATES * H * H)
    w0, w1 = matrix(w_ptr, u, k, H, GATES, 0), matrix(w_ptr, u, k, H, GATES, 1)
    w2, w3 = matrix(w_ptr, u, k, H, GATES, 2), matrix(w_ptr, u, k, H, GATES, 3)
    bias_n = tl.zeros((BLOCK,), tl.float32)
    if bias_n_ptr is not None:
        bias_n = tl.load(bias_n_ptr + d * H + n, mask=n < H, other=0.0)
    state = ((m * STATE_ROWS + STATE_FIRST + d) * B + b) * H + n
    h, c = tl.zeros((BLOCK,), tl.float32), tl.zeros((BLOCK,), tl.float32)
    if h0_ptr is not None:
        h = tl.load(h0_ptr + state, mask=n < H, other=0.0)
        if c0_ptr is not None:
            c = tl.load(c0_ptr + state, mask=n < H, other=0.0)
    count, known = T, True
    if counts_ptr is not None:
        count, known = length(counts_ptr, tl.program_id(0), T, B, LONGEST)
    for t in range(T):
        step = place(t, d, count, T, counts_ptr is not None)
        row = m * (T * B) + (b * T + step if BATCH_FIRST else step * B + b)
        at = gx_ptr + (row * D + d) * (GATES * H)
        x0, x1 = loaded(at, n, H, GATES, 0), loaded(at, n, H, GATES, 1)
        x2, x3 = loaded(at, n, H, GATES, 2), loaded(at, n, H, GATES, 3)
        across = h[None, :]
        h0, h1 = tl.sum(w0 * across, 1), x0
        h2, h3 = x0, x0
        if GATES > 1:
            h1, h2 = tl.sum(w1 * across, 1), tl.sum(w2 * across, 1)
        if GATES > 3:
            h3 = tl.sum(w3 * across, 1)
        new_h, new_c = cell(KIND, x0, x1, x2, x3, h0, h1, h2, h3, bias_n, h, c)
        y = new_h
        if counts_ptr is not None:
            y, new_h, new_c = until(t, count, known, y, new_h, new_c, h, c)
        h, c = new_h, new_c
        if LAST:
            tl.store(y_ptr + ((m * B + b) * D + d) * H + n, y, mask=tl.where(step == T - 1, n, H) < H)
        else:
            tl.store(y_ptr + (row * D + d) * H + n, y, mask=n < H)
    if hn_ptr is not None:
        tl.store(hn_ptr + state, h, mask=n < H)
        if cn_ptr is not None:
            tl.store(cn_ptr + state, c, mask=n < H)


@triton.jit(do_not_specialize=["now"])
def read_kernel(
    gx_ptr, w_ptr, bias_n_ptr, counts_ptr, h0_ptr, c0_ptr, y_ptr, hn_ptr, cn_ptr, work_ptr, now,
    KIND: tl.constexpr, GATES: tl.constexpr, H: tl.constexpr, T: tl.constexpr, B: tl.constexpr, D: tl.constexpr,
    BATCH_FIRST: tl.constexpr, LAST: tl.constexpr, STATE_ROWS: tl.constexpr, STATE_FIRST: tl.constexpr,
    ALONE: tl.constexpr, BLOCK_U: tl.constexpr, BLOCK_K: tl.constexpr, LONGEST: tl.constexpr,
):  # fmt: skip
    # ALONE: time step `now` alone, whose units are shared out; its states are those of the step before, or there are none.
    # work: h and c [2, 2, H] of a stream in a direction, of this time step and of the one before.
    m, b = (tl.program_id(0) // B).to(tl.int64), tl.program_id(0) % B
    d = tl.program_id(1)
    w_ptr += d * (GATES * H * H)
    state = ((m * STATE_ROWS + STATE_FIRST + d) * B + b) * H
    first, last = 0, H
    if ALONE:
        first = tl.program_id(2) * BLOCK_U
        last = tl.minimum(first + BLOCK_U, H)
    else:
        work_ptr += (tl.program_id(0).to(tl.int64) * D + d) * (4 * H)
        for u0 in range(0, H, BLOCK_U):
            n = u0 + tl.arange(0, BLOCK_U)[:, None]
            h, c = tl.zeros((BLOCK_U, 1), tl.float32), tl.zeros((BLOCK_U, 1), tl.float32)
            if h0_ptr is not None:
                h = tl.load(h0_ptr + state + n, mask=n < H, other=0.0)
                if c0_ptr is not None:
                    c = tl.load(c0_ptr + state + n, mask=n < H, other=0.0)
            tl.store(work_ptr + n, h, mask=n < H)
            tl.store(work_ptr + H + n, c, mask=n < H)
        tl.debug_barrier()
    count, known = T, True
    if counts_ptr is not None:
        count, known = length(counts_ptr, tl.program_id(0), T, B, LONGEST)
    for t0 in range(1 if ALONE else T):
        t = now if ALONE else t0
        step = place(t, d, count, T, counts_ptr is not None)
        row = m * (T * B) + (b * T + step if BATCH_FIRST else step * B + b)
        before, after = work_ptr, work_ptr
        if not ALONE:
            before, after = work_ptr + (t % 2) * (2 * H), work_ptr + (1 - t % 2) * (2 * H)
        for u0 in range(first, last, BLOCK_U):
            u = u0 + tl.arange(0, BLOCK_U)[:, None]
            a0, a1 = tl.zeros((BLOCK_U, BLOCK_K), tl.float32), tl.zeros((BLOCK_U, BLOCK_K), tl.float32)
            a2, a3 = tl.zeros((BLOCK_U, BLOCK_K), tl.float32), tl.zeros((BLOCK_U, BLOCK_K), tl.float32)
            h, c = tl.zeros((BLOCK_U, 1), tl.float32), tl.zeros((BLOCK_U, 1), tl.float32)
            if not ALONE or h0_ptr is not None:
                from_h = h0_ptr + state if ALONE else before
                for k0 in range(0, H, BLOCK_K):
                    # With the shape of the weights, so that both have one layout.
                    k = k0 + tl.arange(0, BLOCK_K)[None, :] + tl.zeros((BLOCK_U, BLOCK_K), tl.int32)
                    across = tl.load(from_h + k, mask=k < H, other=0.0)
                    a0 += matrix(w_ptr, u, k, H, GATES, 0) * across
                    if GATES > 1:
                        a1 += matrix(w_ptr, u, k, H, GATES, 1) * across
                        a2 += matrix(w_ptr, u, k, H, GATES, 2) * across
                    if GATES > 3:
                        a3 += matrix(w_ptr, u, k, H, GATES, 3) * across
                h = tl.load(from_h + u, mask=u < H, other=0.0)
                if KIND == "lstm":
                    from_c = c0_ptr + state if ALONE else before + H
                    c = tl.load(from_c + u, mask=u < H, other=0.0)
            h0, h1 = tl.sum(a0, 1, keep_dims=True), tl.sum(a1, 1, keep_dims=True)
            h2, h3 = tl.sum(a2, 1, keep_dims=True), tl.sum(a3, 1, keep_dims=True)
            at = gx_ptr + (row * D + d) * (GATES * H)
            x0, x1 = loaded(at, u, H, GATES, 0), loaded(at, u, H, GATES, 1)
            x2, x3 = loaded(at, u, H, GATES, 2), loaded(at, u, H, GATES, 3)
            bias_n = tl.zeros((BLOCK_U, 1), tl.float32)
            if bias_n_ptr is not None:
                bias_n = tl.load(bias_n_ptr + d * H + u, mask=u < H, other=0.0)
            new_h, new_c = cell(KIND, x0, x1, x2, x3, h0, h1, h2, h3, bias_n, h, c)
            y = new_h
            if counts_ptr is not None:
                y, new_h, new_c = until(t, count, known, y, new_h, new_c, h, c)
            h, c = new_h, new_c
            if ALONE and c0_ptr is not None:
                tl.debug_barrier()  # c may be written where it lies: all threads have read that of these units
            if not ALONE:
                tl.store(after + u, h, mask=u < H)
                tl.store(after + H + u, c, mask=u < H)
            if LAST:
                tl.store(y_ptr + ((m * B + b) * D + d) * H + u, y, mask=tl.where(step == T - 1, u, H) < H)
            else:
                tl.store(y_ptr + (row * D + d) * H + u, y, mask=u < H)
            if hn_ptr is not None:
                tl.store(hn_ptr + state + u, h, mask=u < H if ALONE else tl.where(t == T - 1, u, H) < H)
                if cn_ptr is not None:
                    tl.store(cn_ptr + state + u, c, mask=u < H if ALONE else tl.where(t == T - 1, u, H) < H)
        if not ALONE:
            tl.debug_barrier()
